"""Measurements against other libraries: ``python -m bench.NAME``; needs the "bench" extra."""

"""Comparisons with other libraries, run by ``python -m bench.NAME``; they need the extra `bench`."""

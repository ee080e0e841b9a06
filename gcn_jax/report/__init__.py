"""The page ``report.html``."""

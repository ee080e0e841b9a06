"""What a person watches: lines on stderr, and progress bars, live on a terminal, now and then in a log file."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Prints a line for the user, at once."""
    print(text, file=sys.stderr, flush=True)


def bar(description: str, total: int | None, unit: str, **options) -> tqdm:
    """A progress bar on stderr; a context manager with `update`."""
    seconds = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(desc=description, total=total, unit=unit, mininterval=seconds, **options)

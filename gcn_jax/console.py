"""What a person sees while a program runs: lines and progress bars, all on stderr."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Prints a line to stderr without buffering."""
    print(text, file=sys.stderr, flush=True)


def bar(description: str, total: int | None, unit: str, **options) -> tqdm:
    """A progress bar on stderr, to be used as a context manager.

    On a terminal it is redrawn ten times a second; in a log file it adds a line every 30 seconds.

    Args:
      description: what the bar is about, shown before it.
      total: the number of units until the end; None if it is not known.
      unit: the name of a unit.
      **options: others of `tqdm.tqdm`.
    """
    seconds = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(desc=description, total=total, unit=unit, mininterval=seconds, **options)

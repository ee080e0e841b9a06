"""What a person sees while a program runs: lines and progress bars, all on stderr; none of it can end the work."""

import errno
import io
import os
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


class _Output(io.TextIOWrapper):
    """Stdout or stderr, on which no write raises an error: the work goes on when nobody can read of it any more.

    Once a write has failed, because a pipe or a terminal was closed or a disk is full, all that follows goes nowhere
    (Python's "Note on SIGPIPE"). Letters that the encoding lacks, and names that are not UTF-8, become escapes.
    """

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream  # which would close the file with its own end
        super().__init__(
            stream.buffer,
            stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())
        super().flush()
        if self is sys.stdout and error.errno != errno.EPIPE:
            say(f"stdout: {error.strerror}; what follows is not shown")


def guard_output() -> None:
    """From here on no write to stdout or stderr raises an error; one that is closed takes it and drops it."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # otherwise the next file to be opened would have its number, and get what libraries write
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, _Output(stream))

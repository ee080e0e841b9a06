"""The command line: ``gcn_jax MODE ...``, and ``python run.py``, which takes flags alone."""

import signal
import sys

from gcn_jax.command import help_texts, words
from gcn_jax.console import guard_output, say
from gcn_jax.errors import TrainingError, UserError


def main(program: str = "gcn_jax") -> int:
    """Runs the process's command line; returns the exit status.

    Args:
      program: "gcn_jax", or "run.py".
    """
    guard_output()
    given = sys.argv[1:]
    try:
        if text := help_texts.asked_for(program, given):
            print(text)
            return 0
        flags = words.as_flags(given) if program == "gcn_jax" else given
        from gcn_jax.command import start  # takes a second, which help need not take

        return start.run(program, flags)
    except UserError as error:
        return _end(f"{program}: error: {error}", 2)
    except TrainingError as error:
        return _end(f"{program}: training stopped: {error}", 1)
    except OSError as error:  # such as of a full disk, in the middle of writing
        where = f"{error.filename}: " if error.filename else ""
        return _end(f"{program}: error: {where}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        say(f"{program}: interrupted; run the same command again to go on")
        return 128 + signal.SIGINT


def _end(text: str, status: int) -> int:
    say(text)
    if "jax" in sys.modules:
        from gcn_jax.runtime import processes

        processes.leave(status)
    return status

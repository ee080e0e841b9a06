"""The exceptions that the command shows as one line on stderr; its exit status is 2 for the first, 1 for the second."""

import difflib
from collections.abc import Collection


class UserError(ValueError):
    """A mistake that the user can correct; the message names the config key or the file, the value and what to do."""


class TrainingError(RuntimeError):
    """Training cannot continue; the last good checkpoint is kept, and the message names it."""


def did_you_mean(given: str, known: Collection[str]) -> str:
    """The name that a misspelt one is probably meant for, as the end of a message; "" if none is near.

    Examples:
      >>> from gcn_jax.errors import did_you_mean
      >>> did_you_mean("predikt", ["train", "predict"])
      '; did you mean predict?'
    """
    near = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {near[0]}?" if near else ""

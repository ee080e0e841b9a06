"""The exceptions that the command shows as one line on stderr; its exit status is 2 for the first, 1 for the second."""


class UserError(ValueError):
    """A mistake that the user can correct; the message names the config key or the file, the value and what to do."""


class TrainingError(RuntimeError):
    """Training cannot continue; the last good checkpoint is kept, and the message names it."""

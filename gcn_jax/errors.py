"""The exceptions that `run.py` turns into a line on stderr: exit status 2 for the one, 1 for the other."""


class UserError(ValueError):
    """A mistake the user can mend; the message names the config key or the file, the value and what to do."""


class TrainingError(RuntimeError):
    """Training cannot go on; the last good checkpoint is kept."""

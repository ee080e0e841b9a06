"""The one exception that `run.py` turns into a line on stderr and exit status 2."""


class UserError(ValueError):
    """A mistake the user can mend; the message names the config key or the file, the value and what to do."""

"""The one exception that a user's mistake raises: its text is the line that the user reads."""


class UserError(Exception):
    """A mistake that the user can mend. The message is one line: what is wrong, then the way out."""

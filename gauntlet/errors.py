"""The one exception that a user's mistake raises: its text is the line that the user reads."""


def reason(cause: BaseException) -> str:
    """What the exception says, without its further lines; its type where it says nothing."""
    text = getattr(cause, "strerror", None) or str(cause).strip() or type(cause).__name__
    return str(text).splitlines()[0].rstrip(":. ")


class UserError(Exception):
    """A mistake that the user can mend. The message is one line: what is wrong, then the way out."""


class OtherKind(UserError):
    """A run that a program has nothing to say about; passed over where only a folder above it was named."""


def left_out(runs: int, way_out: str) -> str:
    """The line that counts the runs of another kind; empty without any. way_out: where nothing else is there."""
    return f"left out: {runs} {'run' if runs == 1 else 'runs'} of another kind{way_out}\n" if runs else ""

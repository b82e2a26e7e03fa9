"""The one-line mistake of a user, and what an exception of somebody else says, in one line."""

from collections.abc import Sequence


def printable(text: object) -> str:
    """Return a text that stays on its line and moves no cursor: white space as a space, other control signs as `?`."""
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "?" for sign in str(text))


def reason(cause: BaseException) -> str:
    """Return the first line of what an exception says, or the name of its type where it says nothing."""
    try:
        text = str(getattr(cause, "strerror", None) or str(cause)).strip()
    except Exception:  # an exception of a user's code may fail to print itself
        text = ""
    return printable(text.split("\n")[0]).rstrip(":. ") or type(cause).__name__


def described(cause: BaseException) -> str:
    """Return the type of an exception and the first line of what it says."""
    kind, said = type(cause).__name__, reason(cause)
    return kind if said == kind else f"{kind}: {said}"


def some(names: Sequence[object], shown: int = 3) -> str:
    """Return the first few names as a list, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(printable, names[:shown])) + more


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: what is wrong, then the fix."""


class NotTrained(UserError):
    """Weights that a training would make are not there yet."""


class OtherKind(UserError):
    """A run that a program has nothing to say about; passed over where only a folder above it was named."""


def left_out(runs: int, hint: str) -> str:
    """Return the line that counts the runs of another kind; empty without any. hint: where nothing else is there."""
    return f"left out: {runs} {'run' if runs == 1 else 'runs'} of another kind{hint}\n" if runs else ""

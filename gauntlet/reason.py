"""The cause of an error in one line."""


def reason(cause: BaseException) -> str:
    """What the exception says, without its further lines; its type where it says nothing."""
    text = getattr(cause, "strerror", None) or str(cause).strip() or type(cause).__name__
    return str(text).splitlines()[0].rstrip(":. ")

"""What an exception says reaches the terminal and the evidence in one line that moves no cursor."""

import pytest

from gauntlet.errors import described, printable, reason


class Mute(Exception):
    """An exception that cannot be printed."""

    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("cause", "said", "with_type"),
    [
        (ValueError("first: \nsecond"), "first", "ValueError: first"),
        (ValueError("\n  late\nlater"), "late", "ValueError: late"),
        (ValueError(), "ValueError", "ValueError"),
        (ValueError("..."), "ValueError", "ValueError"),
        (OSError(2, "No such file", "x"), "No such file", "FileNotFoundError: No such file"),
        (RuntimeError("\x1b[2Jgone\tfar\ud800"), "?[2Jgone far?", "RuntimeError: ?[2Jgone far?"),
        (Mute(), "Mute", "Mute"),
    ],
)
def test_the_first_line_of_an_exception(cause, said, with_type):
    assert reason(cause) == said
    assert described(cause) == with_type


def test_signs_that_move_a_cursor_are_shown_as_question_marks():
    assert printable("a\x1b[1A\r\nb\u202ec\x07") == "a?[1A  b?c?"
    assert printable("äöü – 8/255 ✓") == "äöü – 8/255 ✓"

"""Whose code raised: a user's is told in a line; ours and that of installed packages is not taken for it."""

from pathlib import Path

import pytest

import gauntlet
from gauntlet.system.foreign_frame import foreign_frame

OURS = Path(gauntlet.__file__).parent / "attacks" / "nosuch.py"
INSTALLED = Path(pytest.__file__)
THEIRS = Path(__file__).parent / "net.py"


def raised(*files: Path) -> Exception:
    """Return an exception that passed through code of these files, the last of which raised it."""
    call = None
    for file in reversed(files):
        room = {"call": call}
        exec(compile("def layer():\n    return call() if call else 1 / 0", str(file), "exec"), room)
        call = room["layer"]
    with pytest.raises(ZeroDivisionError) as caught:
        call()
    return caught.value.with_traceback(caught.value.__traceback__.tb_next)  # without this file's own frame


@pytest.mark.parametrize("files", [(OURS, THEIRS), (OURS, THEIRS, INSTALLED), (THEIRS, OURS), (OURS, THEIRS, OURS)])
def test_code_of_the_users_is_named_by_file_line_and_function(files):
    assert foreign_frame(raised(*files)) == "net.py:2 (layer)"


@pytest.mark.parametrize("files", [(OURS,), (OURS, INSTALLED), (INSTALLED, OURS)])
def test_a_fault_of_ours_is_no_code_of_the_users(files):
    assert foreign_frame(raised(*files)) == ""

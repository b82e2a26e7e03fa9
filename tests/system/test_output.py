"""Whatever becomes of its output, a command ends quietly and with the status of its work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(code, **options):
    program = f"import sys; from gauntlet.system.output import steady_output\nwith steady_output():\n    {code}"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, text=True, **options)


@pytest.mark.parametrize("words", [["run.py", "--help"], ["-m", "gauntlet", "verify", "--help"]])
def test_a_reader_that_went_away_is_no_failure(words):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_work_goes_on_and_gives_the_status():
    reading, writing = os.pipe()
    os.close(reading)
    done = call(
        "print('x' * 100_000, flush=True); print('more'); print('end', file=sys.stderr); sys.exit(3)",
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (3, "end\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_gets_one_line():
    with Path("/dev/full").open("w") as full:
        done = call("print('x' * 100_000); print('y')", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stderr == (
        "warning: the output could not be written (No space left on device); what was done is kept\n"
    )


def test_a_terminal_of_ascii_gets_plain_signs():
    done = call("print('a · b ≤ 1 ü')", capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "a - b <= 1 \\xfc\n", "")

"""A full disk or a kill at changes of a file of a small evaluation: the same command gives the same records."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALL = """
import sys
from pathlib import Path
from tests.assault.faults import survives
from gauntlet.jobs.attack_setup import prepare
from tests.verification.test_verify import CHOICES, composed, made
words = ["dataset.limit=4", "runtime.chunk=2", "threat.eps=0.3"]
prepare(composed(sys.argv[1], *words), CHOICES, "")  # composes and loads once what each fork would
work = lambda runs: made(runs, *words)
print(survives(work, Path(sys.argv[1]), every=12))
"""


def test_an_evaluation_survives_faults(tmp_path):
    done = subprocess.run(  # which forks: no thread of another test may be at work in it
        [sys.executable, "-c", CALL, tmp_path], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5

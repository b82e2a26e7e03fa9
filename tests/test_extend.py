"""docs/extend.md works as it is written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.defenses.base import Defense
from gauntlet.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("number", "kind", "name", "said"),
    [(0, "attack", "corner", "corner/true"), (1, "defense", "rounding", "pgd/unrounded")],
)
def test_the_code_of_the_documentation_runs(tmp_path, number, kind, name, said):
    page = (ROOT / "docs" / "extend.md").read_text()
    code, yaml, line = (
        re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[number] for language in ("python", "yaml", "bash")
    )
    mine = tmp_path / "mine"
    (mine / "conf" / kind).mkdir(parents=True)
    (mine / "__init__.py").touch()
    (mine / f"{name}.py").write_text(code)
    (mine / "conf" / kind / f"{name}.yaml").write_text(yaml)
    setting, python, _, *arguments = shlex.split(line)
    assert (setting, python) == ("PYTHONPATH=.", "python")
    small = ["runtime.progress=false", "dataset.limit=20", f"runs_dir={tmp_path}/runs"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments, *small],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": f".:{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_a_defense_without_a_card_is_named():
    with pytest.raises(UserError, match="Defense has no card; give the class card = "):
        Defense()

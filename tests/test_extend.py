"""docs/extend.md works as it is written."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from gauntlet.defenses.base import Defense
from gauntlet.errors import UserError
from gauntlet.models.small_cnn import SmallCNN
from tests.program_server import call

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
    done = call(*arguments, *small, place=tmp_path, PYTHONPATH=f".:{ROOT}")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_data_set_of_the_documentation_runs(tmp_path):
    page = (ROOT / "docs" / "data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lines = [shlex.split(line)[2:] for line in page.splitlines() if re.search(r"=mine/data|mine\.data\.Stripes", line)]
    assert len(lines) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "data.py").write_text(code)
    torch.save(SmallCNN(2, 1, 8).state_dict(), tmp_path / "net.pt")
    small = ["runtime.progress=false", "attack=fgsm", "checkpoint=net.pt", "dataset.limit=10"]
    for words in lines:
        done = call(*words, *small, place=tmp_path, PYTHONPATH=f".:{ROOT}")
        assert done.returncode == 0, done.stderr
        assert "(forwards and backwards: per attacked sample)" in done.stdout
    digests = {json.loads(path.read_text())["dataset"]["digest"] for path in tmp_path.rglob("run.json")}
    assert len(list(tmp_path.rglob("run.json"))) == 2
    assert len(digests) == 1  # the same images, whoever makes them


def test_a_defense_without_a_card_is_named():
    with pytest.raises(UserError, match="Defense has no card; give the class card = "):
        Defense()

"""The Python of the documentation runs as it is written, on a few images; the notebook too."""

import json
import re
from pathlib import Path

import pytest

import gauntlet
from gauntlet.data.digits import Digits
from gauntlet.models.checkpoint import load
from gauntlet.models.small_cnn import SmallCNN

ROOT = Path(__file__).parent.parent
PAGES = ("from-python", "coming-from")
SHORT = ("attack.stages.square.queries=20", "attack.stages.apgd_t.steps=5", "attack.stages.fab_t.steps=5")
"""What makes AutoAttack a matter of a second; its own tests run it as it is."""


def names():
    """What the pages take as given: a network, images and labels."""
    model = SmallCNN(10, 1, 8)
    load(model, ROOT / "gauntlet/models/zoo/digits_small_cnn_trades.safetensors")
    batch = Digits().split("test").read(slice(0, 8))
    return {"model": model.eval(), "x": batch.x, "y": batch.y}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate = gauntlet.evaluate
    monkeypatch.setattr(
        gauntlet,
        "evaluate",
        lambda *given, attack="gauntlet", **options: evaluate(
            *given, attack=attack, overrides=SHORT if attack == "autoattack" else (), **options
        ),
        raising=False,
    )
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert len(blocks) > 5
    space = names()
    for block in blocks:
        exec(compile(block, page, "exec"), space)
    assert 0 <= space["result"].clean <= 1


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = json.loads((ROOT / "docs/evaluate.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 4
    space = {"__name__": "__main__"}
    for cell in cells:
        exec(compile(cell, "evaluate.ipynb", "exec"), space)
    assert space["weak"].robust >= space["strong"].robust
    assert all(not cell.get("outputs") for cell in book["cells"])

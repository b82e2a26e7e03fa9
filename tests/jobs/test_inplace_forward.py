"""A model whose forward changes its input is refused by name; behind a copy it has its right number."""

import sys
from pathlib import Path

import pytest

import gauntlet
from gauntlet.commands.run import main

NETWORK = """
from torch.nn import functional as F

from gauntlet.models.small_cnn import SmallCNN


class InPlace(SmallCNN):
    def __init__(self, classes=10, channels=1, size=8, width=16, kind="range", copy=False):
        super().__init__(classes, channels, size, width)
        self.kind, self.copy = kind, copy

    def forward(self, x):
        x = x.clone() if self.copy else x
        if self.kind == "range":
            F.hardtanh_(x, 0.05, 0.95)
        else:
            x.mul_(15).round_().div_(15)
        return super().forward(x)
"""
WEIGHTS = Path(gauntlet.__file__).parent / "models" / "zoo" / "digits_small_cnn_standard.safetensors"
WORDS = [
    "attack=gauntlet", "dataset.limit=30", "trusted_packages=[inplace_net]", "model._target_=inplace_net.InPlace",
    f"checkpoint={WEIGHTS}", "runtime.progress=false",
]  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "inplace_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.delitem(sys.modules, "inplace_net", raising=False)

    def called(*words):
        try:
            return main([*WORDS, *words, f"runs_dir={tmp_path / 'runs'}"])
        except SystemExit as end:
            return end.code

    return called


@pytest.mark.parametrize("kind", ["range", "bits"])
def test_a_forward_that_writes_is_refused_by_name(kind, call, tmp_path, capsys):
    assert call(f"+model.kind={kind}") == 1
    found = capsys.readouterr()
    assert "error: the model's forward writes into its input" in found.err
    assert "robust accuracy" not in found.out
    assert not list((tmp_path / "runs").rglob("part-*.parquet"))


@pytest.mark.slow
def test_behind_a_copy_it_has_its_number(call, capsys):
    assert call("+model.copy=true") == 0
    said = capsys.readouterr().out
    assert "robust accuracy   46.67%" in said  # 40.00 % when adversarial examples were measured against written images
    assert "red flags: none" in said


@pytest.mark.slow
def test_rounding_behind_a_copy_is_flagged_for_its_gradient(call, capsys):
    assert call("+model.copy=true", "+model.kind=bits") == 0
    said = capsys.readouterr().out
    assert "robust accuracy   20.00%" in said  # 96.67 % when the rounded images were kept
    assert "red flag: zero-gradients" in said
    assert "give the defense a BPDA head" in said

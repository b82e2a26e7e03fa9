"""The model of docs/models.md is reached by `_target_`, as the page says."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from gauntlet.config.validate import build, checked
from gauntlet.errors import UserError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(block("python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = OmegaConf.create(block("yaml"))
    dataset = {"_target_": "gauntlet.data.digits.Digits", "classes": 10, "size": 8}
    return OmegaConf.create({"dataset": dataset, "model": model, "trusted_packages": ["mine"]})


def test_it_gives_logits(cfg):
    model = build(checked(cfg, list(cfg)).model)
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_it_has_to_be_trusted(cfg):
    cfg.trusted_packages = []
    with pytest.raises(UserError, match=re.escape("trusted_packages=[mine]")):
        checked(cfg, list(cfg))


def test_its_fields_are_checked(cfg):
    cfg.model.seed = "abc"
    with pytest.raises(UserError, match=r"model\.seed=abc"):
        checked(cfg, list(cfg))


def test_public_networks(shared, monkeypatch):
    monkeypatch.syspath_prepend(str(shared / "models"))
    node = {"_target_": "networks.load", "name": "at_resnet2b"}
    cfg = OmegaConf.create({"model": node, "trusted_packages": ["networks"]})
    model = build(checked(cfg, list(cfg)).model)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)

"""A network with `h.view(n, -1)` after a convolution, in the manner of LeNet, is trained on gray images too."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gauntlet.commands.train import main
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.training.memory_order import fit_memory_order

NETWORK = """
import torch.nn.functional as F
from torch import nn

class LeNet(nn.Module):
    def __init__(self, classes, channels, size):
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.out = nn.Linear(6 * (size // 2) ** 2, classes)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.out(h.view(h.size(0), -1))
"""
WORDS = [
    "trusted_packages=[layout_net]", "model._target_=layout_net.LeNet", "~model.width", "recipe.epochs=1",
    "dataset.limit=64", "runtime.progress=false",
]  # fmt: skip


def call(words, tmp_path, monkeypatch):
    (tmp_path / "layout_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.delitem(sys.modules, "layout_net", raising=False)
    try:
        return main([*WORDS, *words, f"runs_dir={tmp_path / 'runs'}"])
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("words", [["recipe=standard"], ["recipe=pgd_at"], ["recipe=trades_awp", "recipe.ema=0.9"]])
def test_a_lenet_is_trained_on_gray_images(words, tmp_path, monkeypatch, capsys):
    assert call(words, tmp_path, monkeypatch) == 0
    assert "weights: " in capsys.readouterr().out
    assert list((tmp_path / "runs" / "_trained").glob("digits-lenet-*/best.safetensors"))


def test_channels_last_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    assert call(["runtime.channels_last=true"], tmp_path, monkeypatch) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "runtime.channels_last=true" in said
    assert "reshape in place of view" in said


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        h = self.conv(x)
        return h.view(len(h), -1)


def test_only_a_network_that_fails_gets_another_order():
    healthy, flat = SmallCNN(10, 1, 8, 4), Flat()
    for network in (healthy, flat):
        fit_memory_order(network, network, (1, 8, 8), channels_last=False)
    assert not healthy._forward_pre_hooks
    x = torch.rand(3, 8, 8, 1).permute(0, 3, 1, 2)
    expected = F.conv2d(x, flat.conv.weight, flat.conv.bias, padding=1).reshape(3, -1)
    assert torch.allclose(flat(x), expected, atol=1e-6)

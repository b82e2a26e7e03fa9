"""The public networks and images of the folder named by GAUNTLET_SHARED, or of ../shared."""

import importlib.util
import os
from pathlib import Path

from torch import nn

from gauntlet.data.dataset import Batch
from gauntlet.data.parquet import Parquet
from gauntlet.threat_model.threat import Threat

TWO = Threat("linf", "2/255")
TENTH = Threat("linf", 0.1)

NETWORKS = {
    "natural_small": ("cifar10_jpeg", TWO),
    "natural_medium": ("cifar10_jpeg", TWO),
    "pgd_convsmall": ("cifar10_jpeg", TWO),
    "kw_base_2px": ("cifar10_jpeg", TWO),
    "kw_deep_2px": ("cifar10_jpeg", TWO),
    "kw_small_8px": ("cifar10_jpeg", Threat("linf", "8/255")),
    "kw_small_36px_l2": ("cifar10_jpeg", Threat("l2", 36 / 255)),
    "at_resnet2b": ("cifar10_jpeg", TWO),
    "mnist_natural": ("mnist_test", TENTH),
    "mnist_kw_0.1": ("mnist_test", TENTH),
    "mnist_kw_0.3": ("mnist_test", Threat("linf", 0.3)),
    "mnist_colt_0.1": ("mnist_test", TENTH),
}
"""Name -> data set and threat."""


def shared() -> Path:
    return Path(os.environ.get("GAUNTLET_SHARED", "../shared"))


def network_of(name: str) -> nn.Module:
    """The network of that name, in eval mode and without gradients of its weights."""
    spec = importlib.util.spec_from_file_location("networks", shared() / "models" / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    network: nn.Module = networks.load(name)
    return network.eval().requires_grad_(False)


def images_of(data: str, first: int, samples: int, part: str = "test") -> Batch:
    """Images `first` to `first + samples` of a part of a public data set."""
    form = {"channels": 1, "size": 28} if data == "mnist_test" else {}
    return Parquet(path=str(shared() / "data" / data), **form).split(part).read(slice(first, first + samples))

"""Real images: published accuracies come out only if pixels, channels and labels are all in place."""

import importlib.util

import pytest
import torch

from gauntlet.data.parquet import Parquet

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def networks(shared):
    spec = importlib.util.spec_from_file_location("networks", shared / "models" / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("folder", "network", "channels", "size", "accuracy"),
    [("cifar10_jpeg", "at_resnet2b", 3, 32, 0.706), ("mnist_test", "mnist_kw_0.1", 1, 28, 0.983)],
)
def test_public_networks_have_their_clean_accuracy(shared, networks, folder, network, channels, size, accuracy):
    data = Parquet(path=str(shared / "data" / folder), name=folder, channels=channels, size=size, limit=1000)
    split = data.split("test")
    batch = split.read(slice(None))
    assert batch.x.shape == (1000, channels, size, size)
    with torch.no_grad():
        right = networks.load(network)(batch.x).argmax(1) == batch.y
    assert right.float().mean().item() == pytest.approx(accuracy, abs=0.0015)


def test_all_of_cifar10_jpeg_is_there(shared):
    data = Parquet(path=str(shared / "data" / "cifar10_jpeg"), name="cifar10_jpeg")
    splits = {part: data.split(part) for part in ("train", "validation", "test")}
    assert {part: len(split) for part, split in splits.items()} == {"train": 45000, "validation": 5000, "test": 10000}
    assert torch.bincount(torch.from_numpy(splits["test"].source.labels)).tolist() == [1000] * 10
    assert len({split.digest() for split in splits.values()}) == 3

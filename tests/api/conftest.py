"""A trained network and the images that it is evaluated on."""

import pytest

from gauntlet.data.digits import Digits
from gauntlet.models.checkpoint import load
from gauntlet.models.small_cnn import SmallCNN

ZOO = "gauntlet/models/zoo/digits_small_cnn_{}.safetensors"


def network(recipe="trades"):
    made = SmallCNN(10, 1, 8)
    load(made, ZOO.format(recipe))
    return made.eval()


@pytest.fixture
def net():
    return network()


@pytest.fixture(scope="session")
def digits():
    return Digits().split("test").read(slice(0, 32))


MAKER = '''"""What makes the network, for the verifier."""

from gauntlet.models.checkpoint import load
from gauntlet.models.small_cnn import SmallCNN


def make(recipe="trades"):
    network = SmallCNN(10, 1, 8)
    load(network, f"gauntlet/models/zoo/digits_small_cnn_{recipe}.safetensors")
    return network


def other():
    return make("standard")


def pixels():
    return [1, 2]
'''


@pytest.fixture
def maker(tmp_path):
    """A file whose `make` makes the network of `net`."""
    path = tmp_path / "maker.py"
    path.write_text(MAKER)
    return path

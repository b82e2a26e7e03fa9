"""Networks that tests of this package share."""

import pytest
import torch

from gauntlet.models.preact_resnet import PreActResNet
from gauntlet.models.resnet import ResNet
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.models.torchvision_models import TorchvisionModel
from gauntlet.models.wide_resnet import WideResNet

NETWORKS = {
    "small_cnn_8": (lambda: SmallCNN(10, 1, 8), (1, 8)),
    "small_cnn_28": (lambda: SmallCNN(10, 1, 28), (1, 28)),
    "small_cnn_32": (lambda: SmallCNN(10, 3, 32), (3, 32)),
    "resnet18": (lambda: ResNet(10, width=8), (3, 32)),
    "resnet50_grey": (lambda: ResNet(10, channels=1, depth=50, width=8, mean=(0.1,), std=(0.3,)), (1, 28)),
    "preact_resnet18": (lambda: PreActResNet(10, width=8, activation="silu"), (3, 32)),
    "wrn_16_1": (lambda: WideResNet(10, depth=16, width=1, activation="softplus"), (3, 32)),
    "torchvision": (lambda: TorchvisionModel("mobilenet_v3_small", 10, size=32), (3, 32)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network with batch statistics of its own, in eval mode, and a batch of images for it."""
    make, (channels, size) = NETWORKS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.rand(6, channels, size, size)
        model = make()
        for _ in range(3):
            model(torch.rand(8, channels, size, size) * 2)
    return model.eval(), images

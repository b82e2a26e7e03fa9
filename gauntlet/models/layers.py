"""What the residual networks are made of: convolutions, activations, stages, first weights."""

from collections.abc import Callable

from torch import nn

from gauntlet.errors import UserError

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2471, 0.2435, 0.2616)
"""Mean and standard deviation of the training pixels of CIFAR-10, red, green, blue."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "softplus": nn.Softplus}

Block = Callable[[int, int, int, str], nn.Module]
"""Makes a block from the channels it takes, the channels it gives, its stride and the name of its activation."""


def activation(name: str) -> nn.Module:
    """The named activation. Raises UserError for an unknown name."""
    if name not in ACTIVATIONS:
        raise UserError(f"model.activation={name} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def convolution(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, because a batch norm follows, that keeps height and width at stride 1."""
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)


def stage(block: Block, inside: int, outside: int, count: int, stride: int, act: str) -> nn.Sequential:
    """`count` blocks, of which the first has the stride and changes the number of channels."""
    first = block(inside, outside, stride, act)
    return nn.Sequential(first, *(block(outside, outside, 1, act) for _ in range(count - 1)))


def positive(**sizes: int) -> None:
    """Check the sizes of a network. Raises UserError naming the first that is not a positive whole number."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"model.{name}={size} must be a whole number of at least 1")


def start(network: nn.Module) -> None:
    """Draw the weights of all convolutions anew (He et al., 2015, arXiv:1502.01852, by fan-out)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def frozen(module: nn.Module) -> nn.Module:
    """Return the module in eval mode, its weights without gradients; TorchScript lacks `requires_grad_`."""
    for parameter in module.eval().parameters():
        parameter.requires_grad_(False)
    return module

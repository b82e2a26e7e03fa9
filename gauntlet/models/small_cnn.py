"""A small convolutional network for 8x8 to 32x32 images, cheap enough to train and attack on one CPU core."""

from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import convolution, positive

DEPTHS = {8: 3, 28: 4, 32: 4}
"""Size of the images -> number of convolutions."""


class SmallCNN(nn.Module):
    """3x3 convolutions with batch norm and ReLU, each twice as wide as the one before, and a linear head.

    Every convolution but the last halves the image, the first included: at 8x8 they work on 4, 2 and 2 pixels, at 28x28
    on 14, 7, 4 and 4. One digit (8x8, 10 classes, width 16) takes 97,024 multiply-adds and 25,978 parameters, one MNIST
    image 1,749,056 and 117,882. The batch norm of the stem normalizes the pixels, so no constants are needed.

    Args:
        classes: number of logits.
        channels: of the images.
        size: height and width of the images, 8, 28 or 32.
        width: channels of the first convolution.

    Raises:
        UserError: another size, or a number that is not positive.
    """

    def __init__(self, classes: int, channels: int, size: int, width: int = 16) -> None:
        super().__init__()
        if size not in DEPTHS:
            raise UserError(f"model=small_cnn takes images of 8, 28 or 32 pixels, not {size}; try model=torchvision")
        positive(classes=classes, channels=channels, width=width)
        depth, inside, pixels = DEPTHS[size], channels, size
        for number in range(depth):
            outside, stride = width << number, 1 if number == depth - 1 else 2
            name = f"layer{number}" if number else "stem"
            self.add_module(
                name, nn.Sequential(convolution(inside, outside, 3, stride), nn.BatchNorm2d(outside), nn.ReLU())
            )
            inside, pixels = outside, -(-pixels // stride)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(inside * pixels**2, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, channels, size, size] in [0, 1] to logits [B, classes]."""
        for layer in self.children():
            x = layer(x)
        return x

"""The names that other projects give to the tensors of the networks that this package has too.

A layout is a translation of names. Whether a file has it is told by its names alone, and whether the network computes
the same by what the names stand for; where names leave something open, the layout says so in a note.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How another project names the tensors of one of our networks.

    Attributes:
        name: of the project, for messages.
        rules: pairs of a pattern in our names and what stands there in theirs.
        unused: pattern of names of theirs that their forward does not use.
        note: what the names leave open, for the user to check; empty: nothing.
    """

    name: str
    rules: tuple[tuple[str, str], ...]
    unused: str = ""
    note: str = ""

    def theirs(self, ours: Iterable[str]) -> dict[str, str]:
        """Return our name -> their name."""
        found = {}
        for name in ours:
            other = name
            for pattern, replacement in self.rules:
                other = re.sub(pattern, replacement, other)
            found[name] = other
        return found


_RESNET = ((r"^stem\.0\.", "conv1."), (r"^stem\.1\.", "bn1."), (r"\.norm(\d)\.", r".bn\1."))
_PREACT = ((r"^stem\.", "conv1."), (r"\.norm(\d)\.", r".bn\1."), (r"\.shortcut\.weight$", ".shortcut.0.weight"))
_POOL = "their network may have a max pooling after the stem, which this one has not: compare the clean accuracy"
_START = (
    "names do not tell where shortcuts start, after the first activation or, with model=preact_resnet18_cifar "
    "model.shortcut=input, before it: compare the clean accuracy"
)

LAYOUTS = (
    Layout("pytorch-cifar's ResNet", (*_RESNET, (r"^head\.", "linear."))),
    Layout("pytorch-cifar's ResNet with fc", (*_RESNET, (r"^head\.", "fc."))),
    Layout(
        "torchvision's and timm's ResNet",
        (*_RESNET, (r"^head\.", "fc."), (r"\.shortcut\.", ".downsample.")),
        note=_POOL,
    ),
    Layout(
        "pytorch-cifar's PreActResNet",
        (*_PREACT, (r"^last\.0\.", "bn."), (r"^head\.", "linear.")),
        note=_START,
    ),
    Layout(
        "TRADES' and RobustBench's WideResNet",
        (
            (r"^stem\.", "conv1."),
            (r"^layer(\d)\.", r"block\1.layer."),
            (r"\.norm(\d)\.", r".bn\1."),
            (r"\.shortcut\.weight$", ".convShortcut.weight"),
            (r"^last\.0\.", "bn1."),
            (r"^head\.", "fc."),
        ),
        unused=r"sub_block1\..+",
    ),
)  # fmt: skip
"""Tried in this order; MadryLab's files are of the first, behind prefixes of theirs."""

"""A mixture of convolutional experts: one router sends each image down one of E narrow pathways through all layers.

Zhang et al., "Robust mixture-of-expert training for convolutional neural networks", ICCV 2023 (arXiv 2308.10110).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.models.layers import convolution, start


class ConvRouter(nn.Module):
    """Convolutions, the mean over the image, and one score for each expert.

    Args:
        body: normalized pixels to features.
        width: channels of the features.
        experts: number of scores.
        standardise: a batch norm without weights on the scores, so that no expert is chosen by the offset or the spread
            of its score alone.
    """

    def __init__(self, body: nn.Module, width: int, experts: int, standardise: bool = False) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, experts)
        self.norm = nn.BatchNorm1d(experts, affine=False) if standardise else nn.Identity()
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized pixels [B, C, H, W] to scores [B, experts]."""
        scores: Tensor = self.norm(self.head(self.body(x).mean((2, 3))))
        return scores


class Constant(nn.Module):
    """No router: every image goes to the first expert."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] to scores [B, experts]."""
        first = torch.zeros(len(x), self.experts, dtype=x.dtype, device=x.device)
        first[:, 0] = 1
        return first


class PaddedBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut takes every other pixel and adds zero channels."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(inside, outside, 3, stride), nn.BatchNorm2d(outside)
        self.conv2, self.norm2 = convolution(outside, outside, 3), nn.BatchNorm2d(outside)
        self.stride, self.pad = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] to [B, outside, H / stride, W / stride]."""
        out = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        kept = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad // 2, self.pad - self.pad // 2))
        result: Tensor = (out + kept).relu()
        return result


def make_router(kind: str, channels: int, experts: int, standardise: bool) -> nn.Module:
    """The named router; one expert needs none.

    Args:
        kind: resnet20, that of AdvMoE (arXiv 2308.10110; with two experts and three channels 269,202 parameters);
            small, two convolutions for images of 8 pixels; or constant, which is none.
        channels: of the images.
        experts: number of scores.
        standardise: see `ConvRouter`.

    Raises:
        UserError: another kind.
    """
    if kind not in ("resnet20", "small", "constant"):
        raise UserError(f"model.router={kind} is unknown; choose one of resnet20, small, constant")
    if kind == "constant" or experts == 1:
        return Constant(experts)
    if kind == "small":
        body = nn.Sequential(*_unit(channels, 8, 2), *_unit(8, 16, 2))
        return ConvRouter(body, 16, experts, standardise)
    blocks = [PaddedBlock(16, 16, 1) for _ in range(3)]
    for width in (32, 64):
        blocks += [PaddedBlock(width // 2, width, 2), *(PaddedBlock(width, width, 1) for _ in range(2))]
    return ConvRouter(nn.Sequential(*_unit(channels, 16, 1), *blocks), 64, experts, standardise)


def _unit(inside: int, outside: int, stride: int) -> tuple[nn.Module, ...]:
    return convolution(inside, outside, 3, stride), nn.BatchNorm2d(outside), nn.ReLU()


@dataclass(frozen=True)
class Gate:
    """Which expert works on which image of a batch, the same in every layer.

    Args:
        counts: how many images each expert has; the batch is sorted by expert.
        mask: None: each expert works on its images only. Else float [B, E], by which the outputs of all experts are
            multiplied before they are added: E times the work, but a gradient to the mask.
    """

    counts: tuple[int, ...]
    mask: Tensor | None = None


class MoEConv2d(nn.Module):
    """E convolutions without bias side by side, of which each image uses one. Keeps height and width at stride 1.

    Args:
        inside, outside: channels that one expert takes and gives.
        kernel, stride: of all experts.
        experts: their number E. Expert e has the output channels [e * outside, (e + 1) * outside) of the weight.
    """

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, experts: int) -> None:
        super().__init__()
        self.stride, self.padding, self.experts = stride, kernel // 2, experts
        self.weight = nn.Parameter(torch.empty(experts * outside, inside, kernel, kernel))
        for block in self.weight.chunk(experts):
            nn.init.kaiming_normal_(block, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """[B, inside, H, W], sorted by expert, to [B, outside, H / stride, W / stride]."""
        if gate.mask is not None:
            every = self._convolve(x, self.weight)
            every = every.reshape(len(x), self.experts, -1, *every.shape[2:])
            masked: Tensor = (every * gate.mask[:, :, None, None, None]).sum(1)
            return masked
        groups = zip(x.split(gate.counts), self.weight.chunk(self.experts), strict=True)  # type: ignore[no-untyped-call]
        parts = [self._convolve(part, block) for part, block in groups if len(part) or not len(x)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, self.stride, self.padding)


class Routed(nn.ModuleList):
    """Layers one after the other, each of which is told the gate."""

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        for layer in self:
            x = layer(x, gate)
        return x


class MixtureOfExperts(nn.Module, ABC):
    """A classifier with E pathways and a router that chooses one for each image.

    In the forward pass images are grouped by pathway, so that each costs its pathway and the router, nothing else.
    Batch norms, the stem and the head belong to all pathways. A router that gives NaN or infinity makes the logits NaN,
    so that it cannot pass for one that always chooses the first pathway.

    Args:
        router: normalized pixels [B, C, H, W] to scores [B, E]; the largest wins.
        normalize: pixels in [0, 1] to what router and trunk take.
        experts: E, at least 1.
    """

    def __init__(self, router: nn.Module, normalize: nn.Module, experts: int) -> None:
        super().__init__()
        self.normalize, self.experts = normalize, experts
        self.router = router

    @abstractmethod
    def trunk(self, x: Tensor, gate: Gate) -> Tensor:
        """Normalized pixels, sorted by expert, to logits [B, classes]."""

    def scores(self, x: Tensor) -> Tensor:
        """What the router says of pixels [B, C, H, W] in [0, 1]: float [B, E]."""
        scores: Tensor = self.router(self.normalize(x))
        return scores

    def forward(self, x: Tensor, scores: Tensor | None = None) -> Tensor:
        """Pixels [B, C, H, W] in [0, 1] to logits [B, classes]; each image takes the pathway of its largest score.

        scores: float [B, E]; None: those of the router, as constants. Where they require a gradient it flows straight
            through the choice: each layer adds up the outputs of all experts times a one-hot mask, whose derivative by
            the scores is taken to be the identity, that of the argmax being zero (E times the work, the same logits up
            to rounding). So `model(x, model.scores(x))` is the forward pass with a gradient through the router.
        """
        if scores is None:
            with torch.no_grad():
                scores = self.scores(x)
        route = scores.argmax(1)
        if scores.requires_grad and torch.is_grad_enabled():
            mask = F.one_hot(route, self.experts).to(scores.dtype) + (scores - scores.detach())
            logits = self.trunk(self.normalize(x), Gate((), mask))
        else:
            order = route.argsort(stable=True)
            logits = self.trunk(self.normalize(x)[order], Gate(self._counts(route)))[order.argsort()]
        return logits.masked_fill(~scores.isfinite().all(1, keepdim=True), torch.nan)

    def along(self, x: Tensor, route: Tensor) -> Tensor:
        """Logits [B, classes] where image i takes pathway route[i]; route: int64 [B] in [0, E)."""
        logits: Tensor = self(x, F.one_hot(route, self.experts).to(x.dtype))
        return logits

    def pathway(self, x: Tensor, expert: int) -> Tensor:
        """Logits [B, classes] where every image takes the pathway of one expert."""
        return self.along(x, torch.full((len(x),), expert, device=x.device))

    def straight_through(self, x: Tensor) -> Tensor:
        """The forward pass, up to rounding, with a gradient through the router."""
        logits: Tensor = self(x, self.scores(x))
        return logits

    def loads(self, x: Tensor) -> Tensor:
        """How many of the images take each pathway, int64 [E]."""
        return torch.bincount(self.scores(x).argmax(1), minlength=self.experts)

    def columns(self, x: Tensor) -> dict[str, float]:
        """What a training reports of these images after each epoch: the share of each pathway."""
        return {f"load/{expert}": load / len(x) for expert, load in enumerate(self.loads(x).tolist())}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The two players of the training: "experts", which is all but the router, and "router"."""
        router = list(self.router.parameters())
        chosen = {id(weight) for weight in router}
        return {"experts": [w for w in self.parameters() if id(w) not in chosen], "router": router}

    def _counts(self, route: Tensor) -> tuple[int, ...]:
        if route.is_meta:  # nothing is known: as if all took the first pathway
            return (len(route), *[0] * (self.experts - 1))
        return tuple(torch.bincount(route, minlength=self.experts).tolist())


def scaled(width: int, scale: float) -> int:
    """Channels of one pathway where the dense network has `width`: the product rounded down.

    Raises:
        UserError: the scale is not in (0, 1], or leaves no channel.
    """
    if not 0 < scale <= 1:
        raise UserError(f"model.scale={scale} must lie in (0, 1]: width of a pathway as a share of the dense network")
    channels = int(scale * width + 1e-9)
    if not channels:
        raise UserError(f"model.scale={scale} leaves none of {width} channels; take a larger scale or width")
    return channels

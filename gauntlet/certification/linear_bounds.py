"""Certificates for ReLU networks from bounds on their layers, without randomness."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.certification.certifier import Certificates, Kind, Work
from gauntlet.certification.crown.graph import Graph
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.crown.ibp import intervals
from gauntlet.certification.crown.input_region import NORMS, Region, legal
from gauntlet.certification.crown.margin_bounds import METHODS, Effort, Network, prove
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.decision import decided
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

IMAGES = 32
"""Images that are worked on together."""


@dataclass(frozen=True)
class LinearBounds(Knobs, key="certifier"):
    """Proves that no legal image changes the class of a network of affine layers, ReLUs, curves, softmax and products.

    Lower bounds of score[true] - score[other] over the ball, cut with the pixel box; a proof if all are positive. An
    image gets the methods one after the other, up to the one named, until one proves it:

    - ibp: intervals layer by layer, the last affine layers as one (Gowal et al. 2018, arXiv 1810.12715).
    - crown_ibp: linear bounds passed back from the scores to the pixels, each ReLU relaxed by its interval (Zhang et
      al. 2020, arXiv 1906.06316).
    - crown: the same, with the intervals of the ReLUs from linear bounds too (Zhang et al. 2018, arXiv 1811.00866).
    - alpha_crown: slopes of the relaxation optimized by gradient steps (Xu et al. 2021, arXiv 2011.13824).

    What is bounded is the deployed network in float32 arithmetic, not its ideal: each layer adds the most that its
    roundings can do, in any order of summation, and bounds are computed in float64. It is proven for every image that
    the threat calls legal, tolerances included. Convolutions by transforms (Winograd, FFT) and TF32 are not covered;
    scores of each image itself, of two corners and of a random point of its ball are checked against the network read.

    Products of two parts of the image lie between the means of the planes of McCormick (1976, doi 10.1007/BF01580665),
    softmax between planes after Wei et al. 2023 (arXiv 2303.01713).

    Args:
        method: ibp, crown_ibp, crown or alpha_crown.
        steps: gradient steps for the slopes below the scores, >= 1; alpha_crown only.
        inner_steps: gradient steps for those below each open ReLU, >= 0: tighter, and as many times dearer.
        memory: MiB for one piece of work, > 0; 16 fits the cache of a CPU core, a GPU wants thousands.

    Raises:
        UserError: a value outside its range.
    """

    kind: ClassVar[Kind] = "sound_det"
    sees_label: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = NORMS
    whole: ClassVar[bool] = False

    method: str = choice("crown", METHODS)
    steps: int = knob(20, least=1, hint="without steps take certifier=crown")
    inner_steps: int = knob(0, least=0)
    memory: float = knob(16.0, above=0, hint="it is in MiB, such as 16")

    @property
    def confidence(self) -> float:
        return 1.0

    @property
    def name(self) -> str:
        """Return how users call it."""
        return self.method

    def check(self, victim: Victim, threat: Threat) -> None:
        if victim.randomized:
            raise UserError(
                f"certifier={self.name} proves things about deterministic networks and this defense draws random "
                "numbers; take certifier=smoothing if it is smoothed"
            )
        if threat.norm not in self.norms:
            raise UserError(f"certifier={self.name} knows threat=linf and threat=l2, not {threat.norm}")

    def __call__(
        self, victim: Victim, x: Tensor, y: Tensor | None, *, threat: Threat, rng: Rng, work: Work
    ) -> Certificates:
        assert y is not None
        claim = self._claim(victim, x, rng)
        network = Network.of(claim.graph)
        predicted, margin = torch.empty_like(y), torch.empty(len(y), dtype=torch.float64, device=y.device)
        stop = [""] * len(y)
        examples: dict[int, Tensor] = {}
        every = torch.arange(len(x), device=x.device)
        for first in range(0, len(x), IMAGES):
            at = every[first : first + IMAGES]
            scores = victim.predict(x[at], rng.select(at))
            for z in _points(threat.select(at), x[at], rng.select(at)):
                _agree(network.exact, z, claim.bounded(z) if claim.bounded else victim.predict(z, rng.select(at)))
            predicted[at], margin[at] = decided(scores, y[at]), _clean(scores, y[at])
            right = at[predicted[at] == y[at]]
            if len(right):
                asked = ProofTask(victim, threat.select(right), rng.select(right), x[right], y[right])
                found = self._margins(network, claim, asked)
                margin[right] = found.margins
                for i, place in enumerate(right.tolist()):
                    stop[place] = found.stop.get(i, "")
                examples |= {int(right[i]): z for i, z in found.examples.items()}
            work.advance(len(at), 0)  # a rate of forwards would say nothing: nearly all of the time goes to bounds
        radius = torch.where(margin > 0, threat.budget(x.double()).flatten(), torch.zeros_like(margin))
        proven = Certificates.proven(predicted, radius, margin, torch.ones_like(y))
        return replace(proven, stop=stop, examples=examples)

    def _margins(self, network: Network, claim: "Claim", asked: "ProofTask") -> "Margins":
        """Return the margins of the claim of images that are predicted right."""
        effort = Effort(self.method, self.steps, self.inner_steps, self.memory, claim.least)
        proof = prove(network, legal(asked.threat, asked.x), asked.y, effort)
        return Margins(claim.margin(proof.margins))

    def _claim(self, victim: Victim, x: Tensor, rng: Rng) -> "Claim":
        """Return what is to be proven about the deployed pipeline.

        Raises:
            UserError: it does what bounds do not support; the layer is named.
        """
        return Claim(trace(lambda images: victim.predict(images, rng), victim.modules, tuple(x.shape[1:])))


def smallest(margins: Tensor) -> Tensor:
    """Return the margins [B, K - 1] -> [B]."""
    return margins.amin(1)


@dataclass(frozen=True)
class Claim:
    """A network to be bounded, and what its margins say of the defense.

    Args:
        graph: the network.
        least: what each of its margins must exceed.
        margin: proven margins of its scores [B, K - 1] -> a number [B] that is positive only where the class is proven.
        bounded: its scores of images; None: it is the deployed pipeline itself.
    """

    graph: Graph
    least: float = 0.0
    margin: Callable[[Tensor], Tensor] = smallest
    bounded: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Margins:
    """Least margins float64 [B], and, where a search was needed, position -> why it ended, and the image that fell."""

    margins: Tensor
    stop: Mapping[int, str] = field(default_factory=dict)
    examples: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ProofTask:
    """Images x [B, C, H, W] of classes y [B], what may become of them, and the defense that says so."""

    victim: Victim
    threat: Threat
    rng: Rng
    x: Tensor
    y: Tensor

    def select(self, index: Tensor) -> "ProofTask":
        """Return some of the images; index int64 [b]."""
        return ProofTask(self.victim, self.threat.select(index), self.rng.select(index), self.x[index], self.y[index])


def _points(threat: Threat, x: Tensor, rng: Rng) -> Iterator[Tensor]:
    """Yield legal images [B, C, H, W] around each image: itself, all pixels moved one way, each its own, and inside."""
    rng = rng.stream("points")
    yield x
    for shape in ((1, 1, 1), tuple(x.shape[1:])):
        sign = (rng.uniform(shape, -1, 1) + 2.0**-25).sign()  # never zero
        yield threat.project(x + 2 * threat.budget(x) * sign, x)
    yield threat.random(x, rng)


def _agree(graph: Graph, x: Tensor, scores: Tensor) -> None:
    """Raises UserError unless the deployed scores of these images lie within what rounding allows."""
    point = x.double()
    ranges = intervals(graph, Region(point, point, point))
    over = (scores - ranges.upper[-1]).maximum(ranges.lower[-1] - scores).amax()
    if over > 0 or not scores.isfinite().all():
        raise UserError(
            f"the network that was read and the deployed one differ by {float(over):.2g} more than float32 rounding "
            "does; the defense keeps a state, branches on its input, or computes in less than float32"
        )


def _clean(scores: Tensor, y: Tensor) -> Tensor:
    """score[true] - largest other score, float64 [B]."""
    exact = scores.double()
    rest = exact.scatter(1, y[:, None], -torch.inf).amax(1)
    return exact.gather(1, y[:, None]).squeeze(1) - rest

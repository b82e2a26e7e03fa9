"""Bounds of auto_LiRPA, where that package is installed: for networks with operations that ours do not know."""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gauntlet.certification.certifier import Certificates, Kind, Work
from gauntlet.certification.crown.input_region import NORMS, legal
from gauntlet.errors import UserError, described
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.decision import decided
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

PACKAGE = "auto_LiRPA"

METHODS = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN", "alpha_crown": "CROWN-Optimized"}

INSTALL = (
    "pip install appdirs graphviz, and pip install --no-deps git+https://github.com/Verified-Intelligence/auto_LiRPA"
)

AGREE = 1e-4
"""Share of the spread of the scores by which the network that was read may differ from the deployed one."""


@dataclass(frozen=True)
class AutoLirpa(Knobs, key="certifier"):
    """Lower bounds of score[true] - score[other] by auto_LiRPA (Xu et al. 2020, arXiv 2002.12920).

    They are bounds in real arithmetic that are computed in float32, and so may be off by rounding: the kind is
    "claimed", by auto_LiRPA, and neither a table nor a bracket counts it. `certifier=crown` proves the same for the
    float32 network where it knows its layers. The region is all that the threat calls legal; of l2 the ball without the
    pixel box.

    Args:
        method: ibp, crown_ibp, crown or alpha_crown.
        steps: of alpha_crown, >= 1.

    Raises:
        UserError: a value outside its range.
    """

    kind: ClassVar[Kind] = "claimed"
    sees_label: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = NORMS
    whole: ClassVar[bool] = False

    method: str = choice("crown", tuple(METHODS))
    steps: int = knob(20, least=1, hint="without steps take certifier.method=crown")

    @property
    def confidence(self) -> float:
        return 0.0

    @property
    def origin(self) -> str:
        """Return who claims it, in words."""
        version = getattr(_package(), "__version__", "of unknown version")
        return f"{PACKAGE} {version} ({METHODS[self.method]}, computed in float32 without its rounding)"

    def check(self, victim: Victim, threat: Threat) -> None:
        _package()
        if victim.randomized:
            raise UserError(
                "certifier=auto_lirpa bounds deterministic networks and this defense draws random numbers; take "
                "certifier=smoothing if it is smoothed"
            )

    def __call__(
        self, victim: Victim, x: Tensor, y: Tensor | None, *, threat: Threat, rng: Rng, work: Work
    ) -> Certificates:
        assert y is not None
        scores = victim.predict(x, rng).detach()
        predicted, classes = decided(scores, y), scores.shape[1]
        margin = (scores.gather(1, y[:, None]).squeeze(1) - scores.scatter(1, y[:, None], -torch.inf).amax(1)).double()
        right = (predicted == y).nonzero().squeeze(1)
        if len(right):
            bounded = _read(victim, x[right], scores[right], rng.select(right))
            rows = torch.eye(classes, device=x.device)
            others = torch.stack([torch.arange(classes, device=x.device)[rows[own] == 0] for own in y[right].tolist()])
            specification = rows[y[right]][:, None] - rows[others]
            image = _package().BoundedTensor(x[right].clone(), _ball(threat.select(right), x[right]))
            margin[right] = self._bounds(bounded, image, specification).amin(1).double()
        work.advance(len(x), 0)
        radius = torch.where(margin > 0, threat.budget(x.double()).flatten(), torch.zeros_like(margin))
        return Certificates.proven(predicted, radius, margin, torch.ones_like(y))

    def _bounds(self, bounded: Any, image: Any, specification: Tensor) -> Tensor:
        """Return lower bounds [b, K - 1]."""
        optimized = self.method == "alpha_crown"
        if optimized:
            bounded.set_bound_opts({"optimize_bound_args": {"iteration": self.steps, "verbosity": 0}})
        with torch.set_grad_enabled(optimized), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lower, _ = bounded.compute_bounds(
                x=(image,), C=specification, method=METHODS[self.method], bound_upper=False
            )
        found: Tensor = lower.detach()
        return found


class _Deployed(nn.Module):
    """A deployed pipeline as a module, with the networks within it."""

    def __init__(self, forward: Callable[[Tensor], Tensor], modules: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.networks, self.function = nn.ModuleList(modules), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _package() -> Any:
    """Return auto_LiRPA. Raises UserError: it is not installed, or cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(PACKAGE)
    except ModuleNotFoundError as cause:
        lacking = cause.name or PACKAGE
        raise UserError(f"certifier=auto_lirpa needs {lacking}, which is not installed: {INSTALL}") from None
    except Exception as cause:  # a version that does not go with the torch that is here
        raise UserError(f"{PACKAGE} cannot be imported ({described(cause)}); {INSTALL}") from None


def _read(victim: Victim, x: Tensor, scores: Tensor, rng: Rng) -> Any:
    """Return the deployed network as auto_LiRPA reads it.

    Raises:
        UserError: it cannot read it, or reads another one.
    """
    deployed = _Deployed(lambda images: victim.predict(images, rng), victim.modules).eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            bounded = _package().BoundedModule(deployed, torch.empty_like(x), device=x.device, verbose=0)
            again = bounded(x)
    except Exception as cause:  # it raises many types, and exits of its own
        raise UserError(f"{PACKAGE} cannot read this network ({described(cause)}); take certifier=crown") from None
    spread = scores.std().clamp_min(1e-12)
    if not (apart := (again - scores).abs().amax()) <= AGREE * spread:
        raise UserError(
            f"{PACKAGE} reads another network: scores differ by {float(apart / spread):.2g} of their spread; take "
            "certifier=crown"
        )
    return bounded


def _ball(threat: Threat, x: Tensor) -> Any:
    """Return what the threat calls legal around images, rounded outwards to float32."""
    region = legal(threat, x)
    if region.radius is not None:
        radius = _outwards(region.radius.amax(), 1.0)
        return _package().PerturbationLpNorm(norm=2.0, eps=float(radius))
    lower, upper = _outwards(region.lower, -1.0), _outwards(region.upper, 1.0)
    return _package().PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)


def _outwards(value: Tensor, sign: float) -> Tensor:
    """Return float64 values in float32, none of them rounded against the sign."""
    near = value.float()
    further = near.nextafter(torch.full_like(near, sign * torch.inf))
    return torch.where(sign * (near.double() - value) >= 0, near, further)

"""The exhibits of `benchmarks.museum`: models that hide their gradients or reject, and the attacks known to undo it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from benchmarks.hidden import Rippled, Rounded, snapped, winners_take_all
from benchmarks.museum_trainings import SoftmaxPGD, by_paid_scale, by_reward
from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.pma import PMA
from gauntlet.commands.calibration import Setting
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build
from gauntlet.data.dataset import Dataset
from gauntlet.data.fitting import FittingImages
from gauntlet.models.layers import frozen
from gauntlet.threat_model.attack import Attack
from gauntlet.threat_model.bpda import StandIn
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.threat_model.watched_forward import watched

NOISE = 0.05
"""Half of the width of the uniform noise over which the gradient of k-WTA is averaged."""


@dataclass(frozen=True)
class Reference:
    """An attack that is known to undo a kind of hiding.

    Args:
        name: with its source.
        attack: on every head.
        heads: views of the defense that it has; empty: those that the defense declares.
    """

    name: str
    attack: Attack
    heads: tuple[Head, ...] = ()


@dataclass(frozen=True)
class Exhibit:
    """A broken claim.

    Args:
        title: of its page, as in the table.
        about: who claimed what, and how it hides.
        make: the model with its declared heads, and what is known to undo it.
        usual: the attack of the evaluation that is usually claimed.
        claim: that evaluation in words.
        head: that it attacks; of a defense that rejects always the network without its detector.
    """

    title: str
    about: str
    make: Callable[[], tuple[Victim, tuple[Reference, ...]]] = field(repr=False)
    usual: Attack = field(default_factory=lambda: PGD(steps=20), repr=False)
    claim: str = "PGD, 20 steps"
    head: str = "true"


def _network() -> nn.Module:
    """Return the shipped undefended network of digits."""
    return frozen(Setting.of("none", ["dataset=digits"]).models()["model"])


def _first() -> Tensor:
    return Setting.of("none", ["dataset=digits"]).dataset.split("train").read(slice(0, 256)).x


def _beneath(network: nn.Module) -> Head:
    return Head("beneath", plain(network), stand_in=True)


def _around(
    deployed: nn.Module, network: nn.Module, declared: tuple[Head, ...] = (), more: tuple[Reference, ...] = ()
) -> tuple[Victim, tuple[Reference, ...]]:
    """Return a model around a network, and what is known to undo it: examples of the network, queries, and more."""
    deployed.eval()
    known = (
        Reference("examples of the network beneath, PMA", PMA(), (_beneath(network),)),
        Reference("Square, 5,000 queries (arXiv 1912.00049)", Square(queries=5000)),
        *more,
    )
    return watched(Victim(plain(deployed), (deployed,), declared)), known


def itself() -> tuple[Victim, tuple[Reference, ...]]:
    """Return the undefended network."""
    network = _network()
    known = (Reference("PMA", PMA()), Reference("Square, 5,000 queries (arXiv 1912.00049)", Square(queries=5000)))
    return watched(Victim(plain(network), (network,))), known


def rounded() -> tuple[Victim, tuple[Reference, ...]]:
    """Return the network behind rounded pixels."""
    network = _network()
    deployed = Rounded(network)
    straight = StandIn(lambda x: (x * deployed.levels).round() / deployed.levels)
    head = Head("straight_through", lambda x, rng: network(straight(x)), stand_in=True)
    bpda = Reference("BPDA, the rounding passed straight through, PMA (arXiv 1802.00420)", PMA(), (head,))
    return _around(deployed, network, (head,), (bpda,))


def rippled() -> tuple[Victim, tuple[Reference, ...]]:
    """Return the network with a ripple on its logits."""
    network = _network()
    return _around(Rippled(network), network, (_beneath(network),))


def sparse() -> tuple[Victim, tuple[Reference, ...]]:
    """Return the network with k-WTA activations."""
    network = _network()
    deployed = winners_take_all(copy.deepcopy(network))

    def noisy(x: Tensor, rng: Rng) -> Tensor:
        noise = rng.stream("noise").uniform(tuple(x.shape[1:]), -NOISE, NOISE, dtype=x.dtype)
        scores: Tensor = deployed(x + noise)
        return scores

    smooth = Head("averaged", noisy, draws=20)
    averaged = Reference("PGD, 100 steps, gradient averaged over noise (arXiv 2002.08347)", PGD(steps=100), (smooth,))
    return _around(deployed, network, more=(averaged,))


def mean_sparse() -> tuple[Victim, tuple[Reference, ...]]:
    """Return the network with mean-sparse activations."""
    network = _network()
    return _around(snapped(copy.deepcopy(network), _first()), network)


def detector(name: str) -> Callable[[], tuple[Victim, tuple[Reference, ...]]]:
    """Return what makes a shipped defense that rejects."""

    def make() -> tuple[Victim, tuple[Reference, ...]]:
        chosen = Setting.of(name, ["dataset=digits"])
        models = {part: frozen(module) for part, module in chosen.models().items()}
        images = FittingImages(chosen.dataset, torch.device("cpu"))
        known = (
            Reference("PMA on the selective margin", PMA()),
            Reference("PGD, 200 steps, on the selective margin", PGD(steps=200)),
        )
        return watched(chosen.defense.fitted(models, images)), known

    return make


def ensemble(name: str, known: tuple[Reference, ...]) -> Callable[[], tuple[Victim, tuple[Reference, ...]]]:
    """Return what makes a shipped ensemble."""

    def make() -> tuple[Victim, tuple[Reference, ...]]:
        chosen = Setting.of(name, ["dataset=digits"])
        models = {part: frozen(module) for part, module in chosen.models().items()}
        return watched(chosen.defense.deploy(models)), known

    return make


def _composed(attack: str) -> Attack:
    """Return an attack as conf/attack has it."""
    with initialize_config_dir(CONF, version_base=None):
        found: Attack = build(compose("run", [f"attack={attack}"]).attack)
    return found


def drawn(name: str) -> Callable[[], tuple[Victim, tuple[Reference, ...]]]:
    """Return what makes a shipped ensemble of which a member is drawn for each query."""

    def make() -> tuple[Victim, tuple[Reference, ...]]:
        known = (
            Reference("all of `attack=arc_plus`", _composed("arc_plus")),
            Reference("ARC (arXiv 2206.06737), `attack=arc`", _composed("arc")),
            Reference("PGD, 200 steps, on every declared head", PGD(steps=200)),
        )
        return ensemble(name, known)()

    return make


def learned(make: Callable[[Dataset], nn.Module]) -> Callable[[], tuple[Victim, tuple[Reference, ...]]]:
    """Return what makes a network whose training hides the gradient, which is trained first."""

    def around() -> tuple[Victim, tuple[Reference, ...]]:
        network = frozen(make(Setting.of("none", ["dataset=digits"]).dataset))
        known = (Reference("PMA", PMA()), Reference("Square, 5,000 queries (arXiv 1912.00049)", Square(queries=5000)))
        return watched(Victim(plain(network), (network,))), known

    return around


PLAIN = "around the shipped undefended network; no weight was trained for it, so that what it gains is hidden"
COMMON = "PGD, 20 steps, on softmax cross-entropy as it is commonly written"
EXHIBITS = {
    "network": Exhibit("the network itself", "The shipped undefended network, for comparison.", itself),
    "rounding": Exhibit(
        "pixels rounded",
        f"Pixels are rounded to 13 levels {PLAIN}. The gradient is zero: shattered gradients, arXiv 1802.00420.",
        rounded,
    ),
    "ripple": Exhibit(
        "ripple on the logits",
        f"A sine of the sum of the pixels, small and steep, is added to the logits {PLAIN}. The gradient points "
        "anywhere. The logits beneath are declared as a head, as an informed attacker has them.",
        rippled,
    ),
    "k_wta": Exhibit(
        "k-WTA",
        f"The largest 30 % of the activations of a block are kept (arXiv 1905.10510), {PLAIN}. Activations that jump "
        "were claimed to withstand PGD; arXiv 2002.08347 breaks the claim by a gradient that is averaged over noise.",
        sparse,
    ),
    "mean_sparse": Exhibit(
        "mean-sparse",
        f"Activations near their mean become the mean (arXiv 2406.05927), {PLAIN}. It was claimed on top of "
        "adversarial training, under AutoAttack.",
        mean_sparse,
    ),
    "confidence": Exhibit(
        "`confidence`",
        "Rejects where the largest probability is low. Claimed of attackers who ignore it.",
        detector("confidence"),
    ),
    "feature_squeezing": Exhibit(
        "`feature_squeezing`",
        "Rejects where predictions on squeezed images differ (arXiv 1704.01155). Claimed of attackers who ignore it.",
        detector("feature_squeezing"),
    ),
    "mahalanobis": Exhibit(
        "`mahalanobis`",
        "Rejects where features are far from every class (arXiv 1807.03888). Claimed of attackers who ignore it.",
        detector("mahalanobis"),
    ),
    "crossmax": Exhibit(
        "`crossmax`",
        "Normalized logits of several networks, the second highest of which decide (arXiv 2408.05446). Claimed under "
        "AutoAttack on the deployed forward; the normalization spoils the gradient.",
        ensemble("crossmax", (Reference("PMA on every declared head", PMA()),)),
    ),
    "barre": Exhibit(
        "`barre`",
        "Each query is answered by one of three networks, drawn at random, which were trained one after the other "
        "against the ensemble so far (arXiv 2302.01375). What is left is the expected share of right answers on the "
        "worst candidate of each image, exact over the members, and what breaks it is counted by the expected wrong "
        "answers that the candidates of a head add. Randomized ensembles were claimed under PGD on the expected "
        "softmax (arXiv 2002.11565); arXiv 2206.06737 showed by ARC that the gain is not there. BARRE itself is "
        "claimed under ARC.",
        drawn("barre"),
        claim="PGD, 20 steps, on the expected softmax",
        head="expected_softmax",
    ),
    "reward": Exhibit(
        "trained by reward",
        "A network that was trained by policy gradient alone: a class is drawn, and rewarded if it is right. No "
        "publication is quoted: which one claims robustness of such a classifier, by what reward and network and under "
        "which attack, was not found, and without that its numbers cannot be made again. What can be shown is whether "
        f"training by reward hides the gradient from {COMMON}.",
        learned(by_reward),
        SoftmaxPGD(steps=20),
        COMMON,
    ),
    "paid_scale": Exhibit(
        "paid for large logits",
        "A network whose optimizer minimizes cross-entropy less the logarithm of the scale of the logits, until "
        "softmax rounds to 1 and cross-entropy has no gradient. Made for this page: no publication of an optimizer "
        "that obfuscates, with its update and the attack that it was claimed under, was found; none is quoted.",
        learned(by_paid_scale),
        SoftmaxPGD(steps=20),
        COMMON,
    ),
}
"""Page -> exhibit."""

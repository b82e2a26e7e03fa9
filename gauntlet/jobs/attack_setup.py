"""The setup of an attack: what is attacked by what, checked against each other and built."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from gauntlet.config.runtime import Runtime
from gauntlet.config.validate import build
from gauntlet.data.dataset import Dataset, Split
from gauntlet.data.shuffled import ShuffledSplit
from gauntlet.data.validation import check_images
from gauntlet.errors import UserError
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.gradient_draws import check_draws
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.evaluation.start_checks import check_forwards
from gauntlet.evaluation.universal_fit import train_part
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs import stopping
from gauntlet.jobs.run_identity import attack_manifest, folder_of
from gauntlet.jobs.setup import Request, Setup, load, request
from gauntlet.threat_model.access import TRANSFER, admit, known
from gauntlet.threat_model.attack import Coverage, traits_of
from gauntlet.threat_model.threat import Threat
from gauntlet.transfer.crafting import SetCrafter
from gauntlet.transfer.plan import crafted, planned
from gauntlet.transfer.precomputed import PrecomputedTransfer, stored_suite
from gauntlet.transfer.surrogates import owned

DEPLOYED = "deployed"
"""The value of `heads` with which attacks run on the deployed forward alone; version 0.1.0 called it `true`."""


OTHERS = {"patch": "patch_pgd", "spatial": "parameter_search", "color": "parameter_search"}
"""Kind of a threat that is no ball -> an attack that knows it."""


@dataclass(frozen=True)
class AttackSetup:
    """Everything that an attack job needs, built.

    Attributes:
        crafters: of the adversarial sets of a transfer run.
        train: what universal perturbations are fitted to.
        manifest: of the run, as this process would begin it.
    """

    setup: Setup
    evaluation: Evaluation
    crafters: tuple[SetCrafter, ...]
    train: Split | None
    manifest: Manifest
    run: RunFolder

    @property
    def split(self) -> Split:
        """Return the images under attack."""
        return self.setup.split

    @property
    def runtime(self) -> Runtime:
        """Return how the work is done, without effect on what comes out."""
        return self.setup.request.runtime

    def sharing(self, runtime: Runtime) -> "AttackSetup":
        """Return the same for a share of the work."""
        return replace(self, setup=self.setup.sharing(runtime))


def prepare(
    composed: DictConfig,
    choices: dict[str, str],
    command: str,
    data: Dataset | None = None,
    revisions: Mapping[str, int] | None = None,
    sets: Collection[str] = (),
) -> AttackSetup:
    """Check the configuration and build what it names. Writes nothing but trained weights to their cache.

    Args:
        composed: as Hydra composed it.
        choices: group -> name of the choice; names the folders.
        command: what the user can paste to get this evaluation.
        data: the data set, where that of the configuration is not to be read.
        revisions: versions of the attacks that made the records of a run that is checked; None: those of this code.
        sets: identities of the adversarial sets of such a run.

    Raises:
        UserError: the configuration, the data or a model is unfit, or attack, threat and defense do not go together.
    """
    asked = request(owned(composed), choices, command)
    if asked.cfg.heads in (True, DEPLOYED):
        asked.cfg.heads = asked.recorded["heads"] = "true"  # as in version 0.1.0; records and hashes go on saying so
    if asked.cfg.heads not in ("declared", "true"):
        raise UserError(f"heads={asked.cfg.heads} is unknown; choose declared or {DEPLOYED}")
    attack, protocol = build(asked.cfg.attack), build(asked.cfg.protocol)
    if not isinstance(protocol, Protocol):
        raise UserError(f"protocol must be a {Protocol.__module__}.Protocol, not {type(protocol).__name__}")
    _check_attack(asked, attack)
    setup = load(asked, fold=True, data=data)
    if fitted := getattr(setup.target.defense, "calibration", None):
        fitted.check(setup.split.digest())
    if asked.enough is not None:
        setup = replace(setup, split=ShuffledSplit(setup.split))
    evaluation, crafters = _evaluation(setup, stocked(attack, setup.split), protocol, sets)
    stopping.check(
        asked.enough, asked.runtime, evaluation, bool(crafters) or isinstance(evaluation.attack[1], PrecomputedTransfer)
    )
    first = setup.split.read(slice(0, 1))
    check_images(first.ids, first.x, first.y, setup.dataset.classes, (asked.threat.low, asked.threat.high))
    check_forwards(evaluation, tuple(first.x.shape[1:]))
    train = train_part(evaluation, setup.dataset)
    manifest = attack_manifest(setup, evaluation, protocol, train, revisions)
    return AttackSetup(setup, evaluation, crafters, train, manifest, folder_of(manifest, asked.runs_dir))


def stocked(attack: Any, split: Split) -> Any:
    """Return the attack, or suite, with the images that it asks for in `pool`.

    They are spread evenly over the split, so that a sorted one gives several classes too. They depend on the split
    alone, never on the batch, the chunk or the shard.
    """
    traits = traits_of(attack)
    if traits.stages:
        return replace(attack, stages={name: stocked(part, split) for name, part in traits.stages.items()})
    count = min(traits.pool, len(split))
    if not count:
        return attack
    batch = split.read([number * len(split) // count for number in range(count)])
    return attack.stocked(batch.x.clone(), batch.y.clone())


def _check_attack(asked: Request, attack: Any) -> None:
    """Refuse an attack that is not defined for the threat, or needs more than it is given."""
    threat, cfg = asked.threat, asked.cfg
    traits = traits_of(attack)
    if threat.norm not in traits.norms:
        other = f"; take attack={OTHERS[threat.norm]}" if threat.norm in OTHERS else ""
        takes = ", ".join(traits.norms)
        raise UserError(f"this attack is not defined for threat={threat.norm}; it takes {takes}{other}")
    if threat.norm not in Threat.NORMS and type(threat) is Threat:
        raise UserError(f"this set is no norm ball; take threat={threat.norm} from conf/threat")
    if threat.parametric and cfg.surrogates:
        raise UserError(
            f"threat={threat.norm} is judged by parameters, which no stored set holds; leave surrogates out"
        )
    if threat.unbounded and not traits.unbounded:
        raise UserError(
            "this attack needs a finite threat.eps; give one, or measure distances with attack=fmn or search"
        )
    name = asked.choice("attack")
    if not cfg.surrogates:  # which give all that the attack needs
        admit(name, attack, known(cfg.access))
    elif traits.needs == "training-set":
        raise UserError(f"attack={name} is fitted to the defense that it attacks; leave surrogates out")


def _evaluation(
    setup: Setup, attack: Any, protocol: Protocol, sets: Collection[str]
) -> tuple[Evaluation, tuple[SetCrafter, ...]]:
    """Return the evaluation, and what crafts its adversarial sets where the attack is a transfer attack."""
    asked, target, classes = setup.request, setup.target, setup.dataset.classes
    cfg, threat, runtime, name = asked.cfg, asked.threat, asked.runtime, asked.choice("attack")
    listed = _listed(setup)
    crafters = planned(cfg, name, attack, setup.deploy, setup.split, threat, classes, runtime, sets, listed)
    transfer: Any = crafted(crafters) or stored_suite(name, attack, threat, setup.split)
    attack = transfer or attack
    if cfg.draws is not None:
        check_draws(cfg.draws, target.victim)
    victim = protocol.applied(target.victim, cfg.seed)
    coverage: Coverage = "correct" if threat.unbounded else "all" if victim.randomized else "standing"
    evaluation = Evaluation(
        victim=victim,
        attack=(name, attack),
        threat=threat,
        classes=classes,
        seed=cfg.seed,
        fused=protocol.applied(target.fused, cfg.seed) if target.fused else None,
        heads=cfg.heads,
        batch_size=runtime.batch_size,
        gradients=Runtime.GRADIENTS[runtime.gradients],
        device=setup.device,
        coverage=traits_of(attack).coverage or coverage,
        access=TRANSFER if transfer else cfg.access,
        protocol=protocol,
        listed=listed,
    )
    return evaluation, crafters


def _listed(setup: Setup) -> Tensor | None:
    """Return the class that each sample is to become, int64 [n] by its id, where the data set is asked for it."""
    threat = setup.request.threat
    if not (threat.targeted and threat.target == "column"):
        return None
    found = getattr(setup.dataset, "targets", lambda: None)()  # few data sets say it, and a user's own need not
    return None if found is None else torch.from_numpy(found)

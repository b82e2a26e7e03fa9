"""Which sets a transfer run needs: each attack of a suite on each surrogate, or on all of them together."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gauntlet.config.runtime import Runtime
from gauntlet.data.dataset import Split
from gauntlet.errors import UserError, reason
from gauntlet.evaluation.deployment import Deployed
from gauntlet.evaluation.targets import BLIND, BlindTargets
from gauntlet.evidence.adversarial_set import SET_VERSION, AdversarialSet
from gauntlet.evidence.digest import digest_of
from gauntlet.evidence.stable_names import to_record
from gauntlet.threat_model.access import GRADIENT, TRANSFER
from gauntlet.threat_model.attack import compares, revisions_of, stages_of, traits_of
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import check_targeted
from gauntlet.threat_model.threat import Threat
from gauntlet.transfer.crafting import Craft, SetCrafter
from gauntlet.transfer.precomputed import PrecomputedTransfer, Stored, threat_key
from gauntlet.transfer.surrogates import ENSEMBLE, Surrogate


def planned(
    cfg: DictConfig,
    name: str,
    attack: Any,
    deploy: Callable[[DictConfig], Deployed],
    split: Split,
    threat: Threat,
    classes: int,
    runtime: Runtime,
    sets: Collection[str] = (),
    listed: Tensor | None = None,
) -> tuple[SetCrafter, ...]:
    """Return a set crafter for each stage of the transfer run that a configuration describes; none where it has no
    surrogates.

    Args:
        cfg: checked.
        name, attack: what runs on the surrogates.
        deploy: from the node of a defense to the deployed defense.
        classes: of the data.
        sets: those of a run that is checked: its attacks may have been of the first version.
        listed: the class that each sample is to become, int64 [n] by its id, where the data set says it.

    Raises:
        UserError: a surrogate is unfit, or the rest of the configuration does not go with surrogates.
    """
    if not cfg.surrogates:
        return ()
    _check_kind(cfg, attack)
    surrogates = tuple(_surrogate(name, node, deploy, split, classes, runtime) for name, node in cfg.surrogates.items())
    config: Any = OmegaConf.to_container(cfg.attack)
    folder = Path(cfg.runs_dir) / "_sets"
    made = list(crafts(name, attack, config, surrogates))
    if threat.targeted:
        _check_aims(threat, made)
    targets = BlindTargets(cfg.seed, classes, listed) if threat.targeted else None
    return tuple(_workshop(craft, folder, split, threat, classes, cfg.seed, runtime, sets, targets) for craft in made)


def _check_aims(threat: Threat, made: Sequence[Craft]) -> None:
    """Refuse targets that depend on what the target network says, and attacks that cannot be aimed on surrogates."""
    if threat.target not in BLIND:
        raise UserError(
            f"threat.target={threat.target} asks the defense, which answers nothing to who crafts on surrogates; use "
            f"threat.target={' or '.join(BLIND)}"
        )
    for craft in made:
        for one in craft.surrogates:
            check_targeted(craft.stage, craft.attack, one.model.victim)


def _check_kind(cfg: DictConfig, attack: Any) -> None:
    if cfg.access not in (GRADIENT, TRANSFER):
        raise UserError(
            f"access={cfg.access} and surrogates exclude each other: here the target answers nothing; leave one out"
        )
    if cfg.heads != "declared":
        raise UserError("heads=deployed is about heads of the target, which surrogates replace; leave it out")


def _surrogate(
    name: str, node: DictConfig, deploy: Callable[[DictConfig], Deployed], split: Split, classes: int, runtime: Runtime
) -> Surrogate:
    """Load a surrogate, and see that it is about the classes of the data."""
    try:
        model = deploy(node)
        first = split.read(slice(0, 1))
        device = runtime.torch_device()
        with torch.no_grad():
            scores = model.victim.predict(first.x.to(device), Rng(0, first.ids.to(device), "probe"))
    except UserError as cause:
        raise UserError(f"surrogates.{name}: {cause}") from cause
    except (RuntimeError, ValueError, TypeError, IndexError) as cause:
        raise UserError(f"surrogates.{name} cannot predict the images of the data set: {reason(cause)}") from cause
    if scores.shape != (1, classes):
        raise UserError(
            f"surrogates.{name} gives scores of shape {list(scores.shape)} for one image; a surrogate needs the "
            f"{classes} classes of its target"
        )
    return Surrogate(name, model)


def crafts(name: str, attack: Any, config: dict[str, Any], surrogates: tuple[Surrogate, ...]) -> Iterator[Craft]:
    """Yield each attack of a suite on each surrogate, in that order; one that is made for several gets them all at
    once.

    Raises:
        UserError: an attack needs more of its head than a surrogate can stand in for, or is an ensemble of one.
    """
    nodes = config["stages"] if traits_of(attack).stages else {name: config}
    for each, part in stages_of(name, attack).items():
        traits = traits_of(part)
        if traits.needs != "gradient":
            raise UserError(
                f"{each} needs more of the target ({traits.needs}) than surrogates give; "
                "leave surrogates out, or choose a gradient attack, such as attack=pgd"
            )
        if traits.asks:
            raise UserError(
                f"{each} hands on only what it has seen fool its victim, and surrogates never answer; "
                "leave surrogates out, or choose an attack that ends at its strongest point, such as attack=mi or apgd"
            )
        if not traits.together:
            yield from (Craft(f"{each}/{one.name}", part, nodes[each], (one,)) for one in surrogates)
        elif len(surrogates) < 2:
            raise UserError(
                f"{each} on {surrogates[0].name} is an ensemble of one; add another surrogate, "
                "such as +defense@surrogates.other=trades, or choose an attack on single models"
            )
        else:
            yield Craft(f"{each}/{ENSEMBLE}", part, nodes[each], surrogates)


def _workshop(
    craft: Craft,
    folder: Path,
    split: Split,
    threat: Threat,
    classes: int,
    seed: int,
    runtime: Runtime,
    sets: Collection[str],
    targets: BlindTargets | None,
) -> SetCrafter:
    sources = {one.name: one.model for one in craft.surrogates}
    key: dict[str, Any] = {
        "stage": craft.stage,
        "attack": to_record(craft.config),
        "threat": threat_key(threat),
        "data": {"digest": split.digest(), "selection": split.selection()},
        "seed": seed,
        "set_version": SET_VERSION,
    }
    if runtime.gradients != Runtime.gradients:  # another precision, other candidates
        key["gradients"] = runtime.gradients
    if compares(craft.attack):
        key["cut"] = runtime.chunk
    if targets is not None and targets.listed is not None:
        key["targets"] = digest_of(targets.listed.tolist())
    models = {"sources": {name: model.identity for name, model in sources.items()}}
    revisions = revisions_of(craft.attack, threat)
    if revisions and digest_of(key | models) not in sets:
        key["revisions"] = revisions
    identity = digest_of(key | models)
    key["sources"] = {
        name: {
            "victim": model.identity,
            "weights": model.weights,
            "defense": type(model.defense).__module__.split(".")[-1],
        }
        for name, model in sources.items()
    }
    return SetCrafter(
        to=AdversarialSet(folder / identity), craft=craft, key=key, split=split, threat=threat, classes=classes,
        seed=seed, chunk=runtime.chunk, batch_size=runtime.batch_size,
        gradients=Runtime.GRADIENTS[runtime.gradients], device=runtime.torch_device(),
        targets=targets,
    )  # fmt: skip


def crafted(workshops: tuple[SetCrafter, ...]) -> PrecomputedTransfer | None:
    """Return the stages that score what the workshops craft; None where there are none."""
    shops = {shop.craft.stage: shop for shop in workshops}
    return (
        None
        if not shops
        else PrecomputedTransfer(
            {stage: Stored(str(shop.to.path)) for stage, shop in shops.items()},
            {stage: shop.to.path.name for stage, shop in shops.items()},
            {stage: shop.key["sources"] for stage, shop in shops.items()},
        )
    )

"""`gauntlet.attack`: our attacks as callables of the usual form, attack(x, y) -> x_adv."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gauntlet.api.borrowed import borrowed, steady_process
from gauntlet.api.composition import Composition
from gauntlet.api.evaluation import add_threat
from gauntlet.api.inputs import InputError, check_classes, images_and_labels
from gauntlet.api.subject import network_of
from gauntlet.config.validate import build, checked
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.targets import targets_of
from gauntlet.jobs.setup import KEYS
from gauntlet.models.wrapped import logits_of
from gauntlet.threat_model.access import narrowed
from gauntlet.threat_model.attack import compares, traits_of
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import hits
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim
from gauntlet.threat_model.watched_forward import watched


@dataclass(frozen=True)
class DropIn:
    """An attack on a model.

    Args:
        model: from images to logits.
        name: of the attack.
        attack: itself.
        threat: what it may change.
        seed: of its random numbers: a call with the same images gives the same candidates.
        batch_size: samples per forward pass.
    """

    model: Any
    name: str
    attack: Any
    threat: Threat
    seed: int
    batch_size: int

    def __call__(self, x: Tensor, y: Any) -> Tensor:
        """Return a candidate for each image, of the shape, dtype and device of x; the image where it is wrong as it is.

        Under a targeted goal the targets are chosen from the labels y, as in a run.

        A suite attacks in each stage what the stages before it have left. Nothing is recorded or judged independently:
        that is what `gauntlet.evaluate` is for.

        Args:
            x: images [B, C, H, W] in [0, 1].
            y: labels [B].
        """
        images, labels = images_and_labels(x, y)
        network = network_of(self.model)
        assert network is not None
        device = next((p.device for p in network.parameters()), x.device if isinstance(x, Tensor) else images.device)
        z, target = images.to(device), torch.from_numpy(labels).to(device)
        with steady_process(), borrowed([network]):
            for parameter in network.parameters():
                parameter.requires_grad_(False)
            victim = watched(Victim(lambda image, rng: logits_of(network(image)), (network,)))
            with torch.no_grad():
                classes = victim.predict(z[:1], Rng(self.seed, torch.arange(1, device=device))).shape[1]
            check_classes(labels, classes)
            run = Evaluation(
                victim, (self.name, self.attack), self.threat, classes, self.seed,
                batch_size=self.batch_size, device=device, coverage="standing",
            )  # fmt: skip
            z = self._attacked(run, z, target)
        return z.to(x) if isinstance(x, Tensor) else z

    def _attacked(self, run: Evaluation, x: Tensor, y: Tensor) -> Tensor:
        z, ids = x.clone(), torch.arange(len(x), device=x.device)
        right = targets = None
        if self.threat.targeted:
            clean = self._scores(run, x)
            right = clean.argmax(1) == y
            targets = targets_of(run, clean, x, ids, y)
        for stage in run.stages:
            said = self._scores(run, z)
            standing = ids[said.argmax(1) == y if right is None or targets is None else right & ~hits(said, targets)]
            size = max(len(standing), 1) if compares(stage.attack) else self.batch_size
            for at in standing.split(size):  # type: ignore[no-untyped-call]
                if len(at):
                    target = None if targets is None else targets[at]
                    head = narrowed(run.counted_head(stage, Counts.of(at), y[at].clone(), target), stage.attack.needs)
                    rng = Rng(self.seed, at.clone(), stage.name)
                    found = stage.attack(head, x[at].clone(), y[at].clone(), threat=self.threat, rng=rng).detach()
                    z[at] = self.threat.realized(found, x[at])
        return z

    @torch.no_grad()
    def _scores(self, run: Evaluation, z: Tensor) -> Tensor:
        parts: Iterable[Tensor] = torch.arange(len(z), device=z.device).split(self.batch_size)  # type: ignore[no-untyped-call]
        said = [run.victim.predict(z[at], Rng(self.seed, at, "judge")) for at in parts]
        return torch.cat(said)


def attack(
    name: str,
    model: Any,
    *,
    threat: Threat | None = None,
    norm: str | None = None,
    eps: str | float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    **knobs: Any,
) -> DropIn:
    """Return an attack on a model, to be called as attack(x, y) -> x_adv, as those of torchattacks are.

    Args:
        name: of an attack of the configuration.
        model: a torch module, or a function from images to logits.
        threat: what it may change; or norm and eps.
        **knobs: options of the attack, such as steps=100.

    Raises:
        InputError: there is no such attack or option, it needs more than a model (surrogates, training images), or it
            is not defined for the threat.
    """
    if network_of(model) is None:
        raise InputError("model is a defense; give a network, or evaluate the defense with gauntlet.evaluate")
    asked = Composition(words=[f"attack={name}"])
    if knobs:
        asked.nodes["attack"] = dict(knobs)
    add_threat(asked, threat, norm, eps, required=True)
    cfg, _ = asked.compose(())
    ready = checked(cfg, KEYS)
    made, limit = build(ready.attack), build(ready.threat)
    traits = traits_of(made)
    if limit.norm not in traits.norms:
        raise InputError(f"attack {name} is not defined for {limit.norm}; it takes {', '.join(traits.norms)}")
    if limit.unbounded and not traits.unbounded:
        raise InputError(f"attack {name} needs a finite eps; give one, or take fmn or search")
    parts = traits.stages or {name: made}
    if any(traits_of(part).needs in ("transfer", "training-set") or traits_of(part).pool for part in parts.values()):
        raise InputError(f"attack {name} needs more than the model; use gauntlet.evaluate with attack={name!r}")
    return DropIn(model, name, made, limit, seed, batch_size)

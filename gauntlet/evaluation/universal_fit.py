"""Perturbations for all images: fitted to the train part once, kept under the hash of what decides them.

`<runs_dir>/_universal/<hash>.safetensors` holds a perturbation; while a process fits it, `<hash>.state` holds what a
killed process needs to go on to the same bits.
"""

import hashlib
import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.attacks.universal.universal_perturbation import Universal, UniversalState
from gauntlet.data.dataset import Dataset, Split
from gauntlet.errors import UserError
from gauntlet.evaluation.evaluation import Evaluation, Stage
from gauntlet.models import checkpoint_file
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.lock import clear_folder, sole_owner
from gauntlet.system.progress import Bar
from gauntlet.threat_model.attack import Attack, revisions_of
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng

log = logging.getLogger(__name__)

SAVE_SECONDS = 10.0
"""The state of a fit is saved after so long."""


@dataclass(frozen=True, eq=False)
class TrainImages:
    """Some images of a train part, ordered by id. positions: int64 [n], of the images in the part."""

    split: Split
    positions: NDArray[np.int64]
    device: torch.device

    @classmethod
    def chosen(cls, split: Split, count: int | None, seed: int, device: torch.device) -> "TrainImages":
        """Choose as many images, by the seed and their ids: the same for every attack; None: all."""
        word = Rng(seed, torch.from_numpy(split.ids), "training images").bits((1,)).squeeze(1)
        chosen = word.argsort(stable=True)[:count].numpy()
        return cls(split, chosen[split.ids[chosen].argsort()], device)

    @property
    def ids(self) -> Tensor:
        return torch.from_numpy(self.split.ids[self.positions]).to(self.device)

    def read(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        batch = self.split.read(self.positions[positions.cpu().numpy()])
        return batch.x.to(self.device, copy=True), batch.y.to(self.device, copy=True)


def train_part(evaluation: Evaluation, dataset: Dataset) -> Split | None:
    """Return the images that perturbations are fitted to; None where no stage needs them.

    Raises:
        UserError: the data set has no train part, or too few images in it.
    """
    attacks = [stage.attack for stage in evaluation.stages if isinstance(stage.attack, Universal)]
    if not attacks:
        return None
    try:
        split = dataset.split("train")
    except UserError as cause:
        raise UserError(
            f"attack={evaluation.attack[0]} learns from the train part of the data: {cause}; "
            "digits, mnist, fashion_mnist, svhn, cifar10 and cifar100 come with one"
        ) from None
    for attack in attacks:
        if attack.images is not None and attack.images > len(split):
            raise UserError(
                f"attack.images={attack.images}, but the train part of {dataset.name} has {len(split)} images; "
                "give fewer, or null for all"
            )
        attack.length(len(split) if attack.images is None else attack.images)
    return split


def fitted(
    evaluation: Evaluation, split: Split, victim: str, cache: Path, progress: bool, save_seconds: float = SAVE_SECONDS
) -> tuple[Evaluation, dict[str, dict[str, Any]]]:
    """Return the evaluation with its perturbations, and for each stage what the perturbation is and what it cost.

    Those that are not in the cache are fitted, by one process at a time.

    Args:
        split: of the training images.
        victim: hash of the defended model.

    Raises:
        UserError: the cache cannot be written.
    """
    attacks: dict[str, Attack] = {}
    facts: dict[str, dict[str, Any]] = {}
    for stage in evaluation.stages:
        if isinstance(stage.attack, Universal):
            key = _key(evaluation, stage, split, victim)
            path = cache / f"{key}.safetensors"
            delta, found = _kept(path) or (None, {})
            if delta is not None:
                _tidy(path.with_suffix(".state"))
            else:
                with sole_owner(cache, key, None):
                    clear_folder(cache)
                    delta, found = _kept(path) or _fit(evaluation, stage, split, path, progress, save_seconds)
            attacks[stage.name] = stage.attack.fitted(delta)
            facts[stage.name] = {"digest": _digest(delta), "file": path.name, **found}
    return replace(evaluation, fitted=attacks), facts


def _fit(
    evaluation: Evaluation, stage: Stage, split: Split, path: Path, progress: bool, save_seconds: float
) -> tuple[Tensor, dict[str, Any]]:
    attack, scratch = stage.attack, path.with_suffix(".state")
    assert isinstance(attack, Universal)
    images = TrainImages.chosen(split, attack.images, evaluation.seed, evaluation.device)
    head = evaluation.counted_head(stage, Counts.of(images.ids[:0]))
    rng = Rng(evaluation.seed, images.ids, f"{stage.name}/fit")
    total = attack.length(len(images.positions))
    state, before = _saved_state(scratch, evaluation.device) or (UniversalState.start(images), 0.0)
    begun = due = time.monotonic()
    with Bar(total=total, initial=state.step, unit="steps", shown=progress, desc=f"fit {stage.name}") as bar:
        for now in attack.fit(head, images, threat=evaluation.threat, rng=rng, state=state):
            state = now
            bar.reach(state.step)
            if time.monotonic() >= due + save_seconds:
                _save(scratch, state, before + time.monotonic() - begun)
                due = time.monotonic()
    facts = {
        "images": len(images.positions),
        "forwards": state.forwards,
        "backwards": state.backwards,
        "seconds": round(before + time.monotonic() - begun, 3),
    }
    delta = state.delta.cpu().contiguous()
    write_atomically(path, safetensors.torch.save({"delta": delta}, {"fit": json.dumps(facts)}))
    _tidy(scratch)
    return delta, facts


def _kept(path: Path) -> tuple[Tensor, dict[str, Any]] | None:
    """Return a perturbation that is there, with its facts; None where there is none that can be read."""
    if not path.exists():
        return None
    try:
        delta, facts = checkpoint_file.read(path)["delta"], json.loads(checkpoint_file.metadata(path)["fit"])
        if not isinstance(facts, dict):
            raise ValueError(f"{path} does not say how it was fitted")
        return delta, facts
    except (UserError, KeyError, ValueError) as cause:
        log.warning("%s; fitting the perturbation anew", cause)
        return None


def _saved_state(path: Path, device: torch.device) -> tuple[UniversalState, float] | None:
    """Return the state of a fit that was stopped, and the seconds that it took so far."""
    if not path.exists():
        return None
    try:
        tensors, words = checkpoint_file.read(path), checkpoint_file.metadata(path)
        delta, labels, velocity = (tensors[name].to(device) for name in ("delta", "labels", "velocity"))
        step, forwards, backwards = (int(words[name]) for name in ("step", "forwards", "backwards"))
        return UniversalState(delta, labels, velocity, step, forwards, backwards), float(words["seconds"])
    except (UserError, KeyError, ValueError, TypeError) as cause:
        log.warning("%s; fitting the perturbation from the start", cause)
        return None


def _save(path: Path, state: UniversalState, seconds: float) -> None:
    content = state._asdict()
    tensors = {name: value.cpu().contiguous() for name, value in content.items() if isinstance(value, Tensor)}
    words = {name: str(value) for name, value in content.items() if not isinstance(value, Tensor)}
    write_atomically(path, safetensors.torch.save(tensors, words | {"seconds": str(seconds)}))


def _tidy(scratch: Path) -> None:
    """Remove the state of a fit that is done, and what killed processes left beside it."""
    with suppress(OSError):  # a cache that only reads
        scratch.unlink(missing_ok=True)
    if any(scratch.parent.glob(".*.tmp")):
        clear_folder(scratch.parent)


def _key(evaluation: Evaluation, stage: Stage, split: Split, victim: str) -> str:
    """Return what decides a perturbation, hashed."""
    threat, attack = evaluation.threat, stage.attack
    assert isinstance(attack, Universal)
    knobs = asdict(replace(attack, delta=None))
    answer = [
        victim, split.digest(), [threat.norm, threat.label, threat.low, threat.high], type(attack).__qualname__, knobs,
        stage.name, evaluation.seed,
    ]  # fmt: skip
    if revisions := revisions_of(attack, threat):  # a perturbation of the first version keeps its file
        answer.append(revisions)
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()[:12]


def _digest(delta: Tensor) -> str:
    total = hashlib.sha256(json.dumps(list(delta.shape)).encode())
    total.update(delta.float().numpy().tobytes())
    return f"sha256:{total.hexdigest()}"

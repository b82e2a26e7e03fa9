"""Crafting: attacks on surrogates, whose candidates go to adversarial sets. The target plays no part."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gauntlet.config.environment import as_typed
from gauntlet.data.chunks import chunk_positions
from gauntlet.data.dataset import Split
from gauntlet.data.validation import check_images
from gauntlet.errors import UserError, described
from gauntlet.evaluation.targets import BlindTargets
from gauntlet.evidence.adversarial_set import AdversarialSet, Arrays
from gauntlet.system import provenance
from gauntlet.system.lock import clear_folder, sole_owner
from gauntlet.threat_model.attack import Attack, compares
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.transfer.surrogates import Surrogate, head_of

log = logging.getLogger(__name__)

Advance = Callable[[str, int], None]


@dataclass(frozen=True)
class Craft:
    """One attack on one surrogate, or on all of them together. config: the attack's."""

    stage: str
    attack: Attack
    config: dict[str, Any]
    surrogates: tuple[Surrogate, ...]


@dataclass(frozen=True)
class SetCrafter:
    """Makes the parts of one set.

    Args:
        to: the set.
        key: all that crafting depends on, for its set.json.
        classes: that labels must lie below.
        chunk: samples per part, where the set is new.
        gradients: reduced precision of the gradient passes.
        targets: of a targeted attack; None: it is none.
    """

    to: AdversarialSet
    craft: Craft
    key: dict[str, Any]
    split: Split
    threat: Threat
    classes: int
    seed: int
    chunk: int
    batch_size: int
    gradients: torch.dtype | None
    device: torch.device
    targets: BlindTargets | None = None

    def tidy(self) -> None:
        """Remove what killed processes left in the folder of the set."""
        for folder in (self.to.path, self.to.path / "locks"):
            if folder.is_dir():
                clear_folder(folder)

    def ensure(self, positions: slice, advance: Advance) -> None:
        """Craft what is missing, or damaged, for these samples of the split. Two processes never craft the same part.

        advance: called with the stage and 0 before each part.

        Raises:
            UserError: the attack fails, or the set cannot be written.
        """
        self.describe()
        size = self.to.description["chunk"]
        for part in range(positions.start // size, -(-positions.stop // size)):
            if not self._sound(part):
                with sole_owner(self.to.path / "locks", f"part-{part:05d}", None, warn=False):
                    if not self._sound(part):  # another process may have made it meanwhile
                        advance(f"crafting {self.craft.stage}", 0)
                        begun = time.perf_counter()
                        arrays = self.craft_samples(chunk_positions(len(self.split), size, part))
                        self.to.write(part, arrays, time.perf_counter() - begun)

    def describe(self) -> None:
        """Write set.json where there is none; the first process fixes the size of the parts."""
        if (self.to.path / "set.json").exists():
            return
        with sole_owner(self.to.path / "locks", "set", None):
            if not (self.to.path / "set.json").exists():
                commit, dirty = provenance.commit()
                made = {"chunk": self.chunk, "samples": len(self.split), "commit": commit, "dirty": dirty}
                self.to.create(
                    as_typed(self.key) | made | {"versions": provenance.versions(), "started": provenance.now()}
                )

    def _sound(self, part: int) -> bool:
        path = self.to.part_path(part)
        if not path.exists():
            return False
        try:
            self.to.read(part)
        except UserError as cause:
            aside = path.with_suffix(f".{int(time.time())}.damaged")
            path.rename(aside)
            log.warning("%s; it is now %s, and crafted again", cause, aside.name)
            return False
        return True

    def craft_samples(self, positions: slice | Sequence[int]) -> Arrays:
        """Return the rows of these samples of the split, in the order of their ids. Writes nothing.

        Raises:
            UserError: the attack fails.
        """
        batch = self.split.read(positions)
        order = batch.ids.argsort()
        ids, x, y = (t[order] for t in batch)
        check_images(ids, x, y, self.classes, (self.threat.low, self.threat.high))
        size = max(len(ids), 1) if compares(self.craft.attack) else self.batch_size
        pieces = [self._piece(ids[at], x[at], y[at]) for at in torch.arange(len(ids)).split(size)]  # type: ignore[no-untyped-call]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _piece(self, ids: Tensor, x: Tensor, y: Tensor) -> Arrays:
        craft, device = self.craft, self.device
        counts = Counts.of(ids.to(device, copy=True))
        there, labels = x.to(device, copy=True), y.to(device, copy=True)
        aims = None if self.targets is None else (labels.clone(), self.targets.of(counts.ids, labels))
        head = head_of(craft.surrogates, counts, self.gradients, self.batch_size, aims)
        rng = Rng(self.seed, counts.ids.clone(), craft.stage)
        try:
            z = craft.attack(head, there, labels, threat=self.threat, rng=rng).detach()
        except UserError:
            raise
        except (Exception, SystemExit, GeneratorExit) as cause:
            log.exception("crafting %s failed on %d samples", craft.stage, len(ids))
            raise UserError(f"crafting {craft.stage} failed ({described(cause)}); fix the attack") from cause
        if z.shape != there.shape:
            raise UserError(
                f"{craft.stage} gave candidates of {list(z.shape)} for images of {list(x.shape)}; fix the attack"
            )
        columns = ("forwards", "backwards", "zero_gradients", "bad_gradients")
        tensors = {"sample": ids, "label": y, "x": x.float(), "z": z.float()}
        tensors |= {name: getattr(counts, name) for name in columns}
        tensors |= {"clean_pred": self._predictions(x.to(device), counts.ids), "pred": self._predictions(z, counts.ids)}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    @torch.no_grad()
    def _predictions(self, z: Tensor, ids: Tensor) -> Tensor:
        """Return what each surrogate says, int64 [B, surrogates], with the random numbers that a judge would use."""
        pieces = torch.arange(len(ids)).split(self.batch_size)  # type: ignore[no-untyped-call]
        rng = Rng(self.seed, ids, "judge")
        columns = [
            torch.cat([one.model.victim.predict(z[at], rng.select(at.to(ids.device))).argmax(1) for at in pieces])
            for one in self.craft.surrogates
        ]
        return torch.stack(columns, 1)

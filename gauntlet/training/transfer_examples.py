"""Adversarial examples of training images against source networks, crafted before a training and only read in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gauntlet.data.dataset import Split
from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.system.progress import Bar
from gauntlet.threat_model.rng import Rng
from gauntlet.training import resume_state
from gauntlet.training.model_context import PassCounter
from gauntlet.training.objectives.objective import InnerAttack

CHUNK = 250


class TransferExamples:
    """The examples of every source. None can be of the network that is trained: it is never given to this class, a
    source with its weights is refused, and files are found by the digest of the source that they were made with.

    Examples are crafted in the order of the images, in chunks of one size, so that a training that goes on after a kill
    reads the same bits, from its files or made anew.

    Args:
        sources: name -> network from pixels to logits.
        attack: on each of them.
        copies: examples of each image and source, >= 1, from draws of their own.
    """

    def __init__(self, sources: Mapping[str, nn.Module], attack: InnerAttack, copies: int) -> None:
        self.sources, self.attack, self.copies = dict(sources), attack, copies
        self._ids = torch.empty(0, dtype=torch.int64)
        self._z: list[Tensor] = []

    def refuse(self, model: nn.Module) -> None:
        """Refuse to be used in a training of one of the sources. Raises UserError."""
        mine = checkpoint.digest(model)
        for name, source in self.sources.items():
            if source is model or checkpoint.digest(source) == mine:
                raise UserError(f"recipe.objective.{name} is the network that is trained; sources are other networks")

    def fill(
        self, split: Split, seed: int, device: torch.device, folder: Path | None = None, progress: bool = False
    ) -> tuple[int, int]:
        """Craft the examples of all images of a part, or read those that a killed training has left in `folder`.

        Returns:
            How many samples went forwards and backwards through the sources for them.
        """
        self._ids, self._z = torch.as_tensor(split.ids), []
        jobs = [(name, copy) for name in self.sources for copy in range(self.copies)]
        spent = torch.zeros(2, dtype=torch.int64)
        total = len(jobs) * len(self._ids)
        with Bar(desc="examples of the sources", total=total, initial=0, unit="images", shown=progress) as bar:
            for name, copy in jobs:
                z, passes = self._one(name, copy, split, seed, device, folder, bar)
                self._z.append(z)
                spent += torch.tensor(passes)
        forwards, backwards = spent.tolist()
        return forwards, backwards

    def read(self, ids: Tensor, source: Tensor, copy: Tensor) -> Tensor:
        """Return the example of each image [B, C, H, W]; ids, source (its number), copy: int64 [B]."""
        if not self._z:
            raise UserError("there are no examples of the sources yet; fill them in before the first step")
        order = self._ids.argsort()
        rows = order[torch.searchsorted(self._ids[order], ids.cpu())].tolist()
        places = (source * self.copies + copy).tolist()
        return torch.stack([self._z[place][row] for place, row in zip(places, rows, strict=True)]).to(ids.device)

    def _one(
        self, name: str, copy: int, split: Split, seed: int, device: torch.device, folder: Path | None, bar: Bar
    ) -> tuple[Tensor, list[int]]:
        path, mark = folder / f"{resume_state.EXAMPLES}-{name}-{copy}.pt" if folder else None, []
        if path:
            data = [str(split.digest()), str(split.selection())]
            mark = [checkpoint.digest(self.sources[name]), repr(self.attack), seed, copy, *data]
            if kept := _kept(path, mark):
                bar.update(len(self._ids))
                return kept["examples"], kept["passes"]
        found = []
        with PassCounter(self.sources[name]) as passes:
            for begin in range(0, len(self._ids), CHUNK):
                batch = split.read(list(range(begin, min(begin + CHUNK, len(self._ids)))))
                rng = Rng(seed, batch.ids.to(device), f"transfer/{name}/{copy}")
                z = self.attack(self.sources[name], batch.x.to(device), batch.y.to(device), rng)
                found.append(z.contiguous().cpu())
                bar.update(len(z))
        z, spent = torch.cat(found), [passes.forwards, passes.backwards]
        if path:
            resume_state.keep(path, {"mark": mark, "examples": z, "passes": spent})
        return z, spent


def _kept(path: Path, mark: list[Any]) -> dict[str, Any] | None:
    """Return what a file holds where it was made in the same way; one that is damaged or another's is made anew."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a file that is no archive
        return None
    return content if content.get("mark") == mark else None

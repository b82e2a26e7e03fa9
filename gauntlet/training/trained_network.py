"""A trained network as a configuration names it: shipped, in the cache, trained now, or brought along."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from gauntlet.config.environment import as_typed
from gauntlet.config.validate import PACKAGE, build
from gauntlet.data import Dataset
from gauntlet.errors import NotTrained, UserError, some
from gauntlet.evidence.published import published_command
from gauntlet.evidence.stable_names import first_name, to_record
from gauntlet.models import checkpoint
from gauntlet.models.layers import frozen
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.lock import clear_folder, sole_owner
from gauntlet.tracking import NoTracker, Tracker
from gauntlet.training import weights_cache
from gauntlet.training.distributed import join
from gauntlet.training.loop import BEST, fit
from gauntlet.training.model_context import seeded
from gauntlet.training.output_check import check_output, check_trainable
from gauntlet.training.recipe import Recipe
from gauntlet.training.resume_state import tidy
from gauntlet.training.weights_cache import training_key

PART = "part.json"
BRING = tuple(
    f"gauntlet.models.{name}"
    for name in (
        "file_model.FileModel",
        "huggingface_model.HuggingFaceModel",
        "onnx_model.OnnxModel",
        "torchscript_model.TorchScriptModel",
        "robustbench_model.RobustBenchModel",
    )
)
"""Models of this package that bring weights; others do where `weights` names them."""
NOTHING: Mapping[str, nn.Module] = MappingProxyType({})
UNTRACKED = NoTracker()


class LoadedNetwork(NamedTuple):
    """A network that is ready for use."""

    module: nn.Module  # eval mode, no gradients to its weights
    digest: str  # of its weights, "sha256:<hex>"
    source: str  # where the weights come from, in words
    lines: Sequence[str] = ()  # what of a file was loaded, renamed and left out


@dataclass(frozen=True)
class TrainedNetwork:
    """One network of a defense. In a configuration it has `_recursive_: false`, so that its nodes stay configurations.

    Args:
        model: configuration of the network.
        recipe: configuration of the `gauntlet.training.recipe.Recipe` that trains it.
        weights: null: those of the recipe, shipped or trained once and kept; "included": those that the network has
            when it is built; else a file.
        weights_key: which set of weights of the file is meant, where it holds several; see
            `gauntlet.models.checkpoint.load_reported`.
        seed: of initial weights, data order, augmentation and noise.
        uses: names of other parts that the objective takes as arguments.
    """

    model: dict[str, Any]
    recipe: dict[str, Any]
    weights: str | None = None
    weights_key: str | None = None
    seed: int = 0
    uses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("model", "recipe"):
            if not isinstance(getattr(self, name), dict):
                raise UserError(f"{name} of a part must stay a configuration; give the part _recursive_: false")

    def load(
        self,
        dataset: Dataset,
        cache: Path,
        *,
        given: Mapping[str, nn.Module] = NOTHING,
        device: torch.device | str = "cpu",
        progress: bool = True,
        tracker: Tracker = UNTRACKED,
        train: bool = True,
    ) -> LoadedNetwork:
        """Return the network, trained first where that has to be.

        Args:
            cache: folder of trained networks.
            given: loaded parts; those that `uses` names must be among them.
            train: whether weights that are not there are trained.

        Raises:
            UserError: configuration, data or weights are unfit, the cache cannot be written, or `train` is false and
                there are no weights yet.
        """
        recipe, module = self.built_recipe(given), self.first_network().to(device)
        check_output(recipe.objective.classifier(module), dataset)
        lines: Sequence[str] = ()
        if self.weights == "included":
            digest, source = checkpoint.digest(module), "included"
        elif self.weights is not None:
            digest, lines = checkpoint.load_reported(module, self.weights, self.weights_key)
            source = f"file {Path(self.weights).name}"
        else:
            path = weights_cache.find(self.key(dataset, given))
            source = f"zoo {path.stem}" if path else "trained"
            if path is None:
                folder = self.folder(dataset, cache, self.key(dataset, given))
                if not (folder / BEST).exists():
                    if not train:
                        raise NotTrained(f"{folder / BEST} is not there; train it first")
                    self._refuse_own_weights(module)
                folder = self.train(dataset, cache, given=given, device=device, progress=progress, tracker=tracker)
                path = folder / BEST
            digest = checkpoint.load(module, path)
        frozen(module)
        check_output(recipe.objective.classifier(module), dataset)
        return LoadedNetwork(module, digest, source, lines)

    def train(
        self,
        dataset: Dataset,
        cache: Path,
        *,
        given: Mapping[str, nn.Module] = NOTHING,
        device: torch.device | str = "cpu",
        progress: bool = True,
        tracker: Tracker = UNTRACKED,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> Path:
        """Return the folder with the weights of the recipe in the cache, trained once, by one process at a time.

        Arguments as for `load` and for `gauntlet.training.loop.fit`. Processes that torchrun started train together.
        """
        key, processes = self.key(dataset, given), join()
        folder = self.folder(dataset, cache, key)
        if processes.all((folder / BEST).exists()):
            if processes.rank == 0:
                tidy(folder)
            return folder
        recipe, module = self.built_recipe(given), self.first_network().to(device)
        check_output(recipe.objective.classifier(module), dataset)
        check_trainable(recipe.objective.classifier(module), dataset)
        first = processes.rank == 0
        with sole_owner(folder, "train", None) if first else nullcontext():
            processes.wait()  # until the first process holds the lock
            if processes.all(not (folder / BEST).exists()):
                command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
                config = as_typed(to_record({"model": self.model, "recipe": self.recipe}))
                answer = {"key": key, "command": command, **config, "seed": self.seed}
                shown = answer | {"command": published_command(command)}
                if first:
                    clear_folder(folder)
                    write_atomically(folder / PART, (json.dumps(answer, indent=1) + "\n").encode())
                with (tracker if first else UNTRACKED).training(folder.name, key, shown) as listener:
                    fit(
                        module, dataset, recipe, folder,
                        identity=key, seed=self.seed, device=device, log=listener, progress=progress,
                        processes=processes, channels_last=channels_last, compiled=compiled,
                    )  # fmt: skip
        return folder

    def members(self, dataset: Dataset) -> Iterator[tuple[str, "TrainedNetwork", Dataset]]:
        """Yield the networks that this part consists of: name within its module, how it comes about, and the data that
        train it. Here one, the module itself, whose name is empty."""
        yield "", self, dataset

    def check_source(self) -> None:
        """Refuse the weights that an architecture of this package has when it is built: they were drawn at random."""
        if self.weights == "included" and not _holds_weights(self.model):
            raise UserError(
                f"checkpoint=included, but {self.model['_target_']} is built with random weights; give "
                "checkpoint=FILE, or leave it out to have them trained"
            )

    def _refuse_own_weights(self, module: nn.Module) -> None:
        """Refuse to train over weights that a network comes with: built from other draws, they are the same."""
        with seeded(self.seed + 1, "initial weights"):
            again = build(self.model)
        if checkpoint.digest(again.to(next(module.parameters(), torch.empty(0)).device)) == checkpoint.digest(module):
            name = self.model.get("source") or self.model.get("name") or self.model["_target_"]
            raise UserError(
                f"{name} comes with weights of its own, which a training would replace; evaluate them with "
                "checkpoint=included, or train from them first, with gauntlet train"
            )

    def key(self, dataset: Dataset, given: Mapping[str, nn.Module] = NOTHING) -> str:
        """Return what the trained weights depend on, as a SHA-256 in hex."""
        digests = {name: checkpoint.digest(module) for name, module in self._used(given).items()}
        return training_key(self.model, self.recipe, self.seed, dataset, digests)

    def folder(self, dataset: Dataset, cache: Path, key: str) -> Path:
        """Return the folder in the cache of the training with that key."""
        targets = (
            first_name(node.get("_target_", "")).split(".")[-1]
            for node in (self.model, self.recipe.get("objective", {}))
        )
        return cache / "-".join([dataset.name, *targets, key[:12]]).lower()

    def first_network(self) -> nn.Module:
        """Return the network as it is built, before any training or checkpoint: its weights follow from the seed."""
        with seeded(self.seed, "initial weights"):
            module = build(self.model)
        if not isinstance(module, nn.Module):
            raise UserError(f"model._target_={self.model.get('_target_')} does not give a torch.nn.Module")
        if empty := [name for name, value in module.state_dict(keep_vars=True).items() if value.is_meta]:
            raise UserError(f"the model has tensors without values (device meta): {some(empty)}; build it on the CPU")
        return module

    def built_recipe(self, given: Mapping[str, nn.Module]) -> Recipe:
        """Return the recipe with the networks that its objective uses. Raises UserError where it cannot be built."""
        # Partial, because Hydra would copy networks that it is given as arguments.
        used = self._used(given)
        node = dict(self.recipe)
        objective = {name: value for name, value in dict(node.pop("objective", {})).items() if name not in used}
        try:
            recipe = build(node, _partial_=True)(objective=build(objective, _partial_=True)(**used))
        except TypeError as cause:
            raise UserError(f"recipe cannot be built: {cause}") from cause
        if not isinstance(recipe, Recipe):
            raise UserError(f"recipe._target_={node.get('_target_')} does not give a gauntlet.training.recipe.Recipe")
        return recipe

    def _used(self, given: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        missing = [name for name in self.uses if name not in given]
        if missing:
            raise UserError(f"a part uses {missing[0]}, which is not there; list that part before it")
        return {name: given[name] for name in self.uses}


def _holds_weights(node: Mapping[str, Any]) -> bool:
    """Return whether the model of a configuration may bring its weights: code of the user's, or published weights."""
    target = node.get("_target_")
    if isinstance(target, str) and not target.startswith(f"{PACKAGE}."):
        return True
    if target in BRING or node.get("weights"):
        return True
    return any(_holds_weights(v) for v in node.values() if isinstance(v, Mapping))

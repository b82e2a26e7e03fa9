"""Whether a trained network is what the record of its training says.

Its folder is named by the key of the training: the hash of model, recipe, seed and data. What lies there is held
against that record: the key, the configuration, the epochs, and the validation accuracies that the recorded weights
had, which are measured again. Whether the training gives these weights only training again tells, which is done on
request.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gauntlet.config.environment import as_typed
from gauntlet.data.dataset import Dataset
from gauntlet.errors import UserError
from gauntlet.evidence.stable_names import to_record
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.jobs.certification_job import CertificationSetup
from gauntlet.models import checkpoint
from gauntlet.system.file_reader import read_json
from gauntlet.training import history, weights_cache
from gauntlet.training.trained_network import PART, TrainedNetwork
from gauntlet.training.weights_cache import canonical
from gauntlet.verification.report import Report
from gauntlet.verification.retraining import retrained

SLACK = 2
"""Validation images that may fall to another side by rounding on another machine."""


def check_networks(report: Report, job: AttackSetup | CertificationSetup, retrain: bool = False) -> None:
    """Hold every network of the defense, and of the surrogates, against the record of its training.

    retrain: whether trainings are repeated, and their weights compared.
    """
    cache, dataset = job.setup.request.runs_dir / "_trained", job.setup.dataset
    crafters = job.crafters if isinstance(job, AttackSetup) else ()
    sources = {one.name: one.model.defense for crafter in crafters for one in crafter.craft.surrogates}
    for owner, defense in {"": job.setup.target.defense, **sources}.items():
        models: dict[str, nn.Module] = {}
        for name, part in defense.parts.items():
            given = {other: models[other] for other in part.uses}
            models[name] = part.load(dataset, cache, given=given, train=False).module
            about, notes = f"{owner}.{name}" if owner else name, []
            for inner, member, data in part.members(dataset):
                module = models[name].get_submodule(inner)
                called = f"{about}.{inner}" if inner else about
                problems, note = check_training(called, member, data, cache, given, module, retrain)
                report.problems += problems
                notes.append(note)
            many = f"; so are those of {len(notes) - 1} more networks of {about}"
            report.notes.append(notes[0] + many * (len(notes) > 1))


def check_training(
    name: str,
    part: TrainedNetwork,
    dataset: Dataset,
    cache: Path,
    given: Mapping[str, nn.Module],
    module: nn.Module,
    retrain: bool = False,
) -> tuple[list[str], str]:
    """Return what is wrong with a network's record, one line each, and where its weights come from, in words.

    Args:
        name: of the network in the defense.
        cache: folder of trained networks.
        given: loaded networks that its objective uses.
        module: the network with its weights, in eval mode.
        retrain: whether the training is repeated.
    """
    digest = checkpoint.digest(module)
    if part.weights is not None:
        return [], f"the weights of {name} are {part.weights} ({digest[:19]}), without a record of their training"
    key = part.key(dataset, given)
    if (shipped := weights_cache.find(key)) is not None:
        return [], f"the weights of {name} come with gauntlet ({shipped.stem})"
    folder = part.folder(dataset, cache, key)
    repeated = "repeated" if retrain else "not repeated"
    said = f"the weights of {name} are those of {folder.name}; training was {repeated}"
    try:
        record = read_json(folder / PART)
        past = history.read(folder)
    except (UserError, FileNotFoundError) as cause:
        return [f"the weights of {name} have no record of their training in {folder.name} ({cause})"], said
    problems = list(_record_problems(record, key, part))
    try:
        problems += _score_problems(past, part, dataset, given, module)
    except UserError as cause:
        said += f", and its validation accuracy was not measured again ({cause})"
    if retrain and (odd := retrained(part, dataset, given, module)):
        problems.append(odd)
    return [f"the weights of {name} are not those of {folder.name}: {line}" for line in problems], said


def _record_problems(record: Any, key: str, part: TrainedNetwork) -> Iterator[str]:
    wanted = {"key": key, "seed": part.seed, **to_record({"model": part.model, "recipe": part.recipe})}
    for field, value in wanted.items():
        # What was typed for a value is known of this process alone, in which another run may have typed it otherwise.
        either = (canonical(value), canonical(as_typed(value)))
        if not isinstance(record, dict) or canonical(record.get(field)) not in either:
            yield f"{field} in {PART} is that of another training"


def _score_problems(
    past: history.History, part: TrainedNetwork, dataset: Dataset, given: Mapping[str, nn.Module], module: nn.Module
) -> Iterator[str]:
    """Yield a line for each thing that the history of a training says otherwise than recipe and weights."""
    recipe = part.built_recipe(given)
    if [epoch.epoch for epoch in past.epochs] != list(range(1, recipe.epochs + 1)):
        yield f"its history has {len(past.epochs)} epochs, the recipe {recipe.epochs}"
    if past.best is None or not 1 <= past.best.epoch <= recipe.epochs:
        yield "its history does not say which epoch is the best"
        return
    split = dataset.split("validation")
    classifier = recipe.objective.classifier(module)
    device = next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
    found = recipe.selection.measure(classifier, split, part.seed, device, attack=True)
    images = min(len(split), recipe.selection.limit or len(split))
    line = past.epochs[past.best.epoch - 1] if past.best.epoch <= len(past.epochs) else past.best
    for name, again in (("clean", found.clean), ("pgd", found.pgd)):
        for recorded in (getattr(past.best, name), getattr(line, name)):
            if not math.isnan(recorded) and abs(recorded - again) * images > SLACK + 1e-9:
                yield f"its validation accuracy ({name}) is {again:.2%}, the history says {recorded:.2%}"
                break

"""`gauntlet.evaluate`: attack a model in Python, by the same job, with the same records, as the command line."""

import re
import shlex
import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from omegaconf import DictConfig

from gauntlet.api.attacks import add_attack
from gauntlet.api.borrowed import awake, borrowed, steady_process
from gauntlet.api.composition import Composition
from gauntlet.api.defenses import add_defense, networks_in
from gauntlet.api.inputs import InputError
from gauntlet.api.result import EvaluationResult, RunsFolder
from gauntlet.api.subject import add_images, add_network, device_of, first_images, network_of
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Split
from gauntlet.data.given import FOLDER, store
from gauntlet.jobs import attack_job
from gauntlet.jobs.setup import KEYS
from gauntlet.system.handed_objects import handed
from gauntlet.threat_model.threat import Threat
from gauntlet.transfer.surrogates import owned

PYTHON = "gauntlet.{}(...)"
"""The command on record of a run with objects of a Python caller."""


def evaluate(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    threat: Threat | None = None,
    norm: str | None = None,
    eps: str | float | None = None,
    attack: Any = "gauntlet",
    folder: str | PathLike[str] | None = None,
    name: str | None = None,
    data_name: str | None = None,
    classes: int | None = None,
    defense: str | None = None,
    protocol: str | None = None,
    heads: str | None = None,
    access: str | None = None,
    draws: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | None = None,
    device: Any = None,
    expected_clean: float | None = None,
    progress: bool = False,
    overrides: Sequence[str] = (),
    **knobs: Any,
) -> EvaluationResult:
    """Attack a model and return what was measured, with the evidence for each image.

    The model is judged in eval mode, in float32, on pixels in [0, 1]; its own normalization belongs inside. Its modes,
    device and flags, and the generators of the process, are afterwards as they were.

    Args:
        model: a torch module, a function from images to logits, or a defense of this package or yours, by name or as an
            object, in whose parts networks may stand as they are.
        x: images [n, C, H, W] in [0, 1] as a tensor or array; or a torch Dataset, a DataLoader or a pipeline that gives
            (image, label) or batches of these, as tuples or mappings; or the name of a data set of the configuration,
            such as "digits". Beyond 1 GiB of images it is read again when they are needed, and has to be the same.
        y: labels [n], where x does not hold them.
        threat: what the attacker may change; or norm ("linf", "l2", "l1", "l0") and eps (0.5, "8/255", "unbounded").
        attack: name of an attack of the configuration, an attack object of this package, or one of torchattacks,
            Foolbox, ART or adv-lib, or a function (model, x, y) or (x, y) that returns candidates.
        folder: of runs, where the evidence goes and an interrupted evaluation is resumed; None: a temporary one, which
            lives as long as the result; see `EvaluationResult.save`.
        name: of the model on the board and in folders; None: that of its class.
        data_name: of the images there; None: "given".
        classes: of a defense that is handed in with images; a network of yours tells it by its output.
        defense: of the configuration, around the model, such as "gaussian_smoothing"; None: the model as it is.
        protocol: as on the command line; None: that of the defense.
        heads, access, draws, seed: as on the command line.
        limit: the first images only.
        batch_size: samples per forward pass; None: 256.
        device: "cpu", "cuda:1"; None: where the weights of the model are.
        expected_clean: clean accuracy that the model declares; another one ends the evaluation before the attack.
        progress: show a progress bar.
        overrides: further options as on the command line, such as "runtime.threads=8".
        **knobs: options of the attack, such as steps=100.

    Raises:
        InputError: an argument cannot be what is meant; a `ValueError` whose message is one line.
        gauntlet.errors.UserError: model, attack and threat do not go together, or the folder is unfit.
    """
    given = {"protocol": protocol, "defense": defense}
    asked = Composition(words=[f"{key}={value}" for key, value in given.items() if value is not None])
    if isinstance(model, str) and defense is not None:
        raise InputError(f"model={model!r} names a defense already; leave defense out")
    runs = RunsFolder(folder)
    roots = {"heads": heads, "access": access, "draws": draws, "expected_clean": expected_clean}
    for key, value in roots.items():
        if value is not None:
            asked.nodes[key] = value
    add_threat(asked, threat, norm, eps, required=not isinstance(x, str))
    network = network_of(model)
    inner = {} if network is not None else networks_in(model)
    networks = [*inner.values()] if network is None else [network]
    for said in filter(None, map(awake, networks)):
        warnings.warn(said, stacklevel=2)
    images = add_images(asked, x, y, limit, data_name)
    runtime: dict[str, Any] = {"progress": progress, "device": device_of(networks, device)}
    if batch_size is not None:
        runtime["batch_size"] = batch_size
    asked.nodes |= {"runtime": runtime, "seed": seed, "runs_dir": str(runs.path)}
    with steady_process(), borrowed(networks):
        first = first_images(images, asked.words, limit) if networks else torch.empty(0)
        if network is None:
            add_defense(asked, model, inner, first, images, classes)
        else:
            add_network(asked, network, first, images, classes, name)
        add_attack(asked, attack, knobs)
        if "attack=foreign" in asked.words and batch_size is not None:
            runtime["chunk"] = batch_size  # it gets a whole chunk at once
        cfg, choices = asked.compose(overrides)
        if images is not None and folder is not None:
            store(images, runs.path / FOLDER)
        with handed(asked.objects):
            split = split_of(cfg)
            outcome = attack_job.evaluate(cfg, choices, command_of("evaluate", asked, overrides))
        if outcome.manifest["status"] != "running":
            outcome.tracker.evaluation(outcome.run, outcome.manifest, outcome.summary)
    for text, count in outcome.summary.errors.items():
        warnings.warn(f"{count} samples ended with an error, and do not count as robust: {text}", stacklevel=2)
    return EvaluationResult.of(outcome, runs, split, images)


def add_threat(
    asked: Composition, threat: Threat | None, norm: str | None, eps: str | float | None, *, required: bool
) -> None:
    """Add the threat. required: whether it must be given in full; else the data set has a default."""
    if threat is not None:
        if norm is not None or eps is not None:
            raise InputError("threat says norm and eps already; leave norm and eps out")
        if not isinstance(threat, Threat):
            raise InputError(f"threat is a {type(threat).__name__}; give gauntlet.Threat('linf', '8/255')")
        asked.words.append(f"threat={threat.norm}")
        asked.nodes["threat"] = {key: getattr(threat, key) for key in ("eps", "low", "high", "goal", "target")}
        asked.nodes["threat"] |= threat.shape
        return
    if required and (norm is None or eps is None):
        raise InputError("threat is missing; give threat=gauntlet.Threat('linf', '8/255'), or norm='linf', eps='8/255'")
    if norm is not None:
        asked.words.append(f"threat={norm}")
    if eps is not None:
        asked.nodes["threat"] = {"eps": eps}


def split_of(cfg: DictConfig) -> Split:
    """Return the images of a composed configuration."""
    split: Split = build(checked(owned(cfg), KEYS).dataset).split("test")
    return split


def command_of(function: str, asked: Composition, overrides: Sequence[str]) -> str:
    """Return the command of the run: one that can be pasted where the configuration names all there is in it."""
    nodes = {key: value for key, value in asked.nodes.items() if key != "runtime"}
    if (
        asked.objects
        or asked.trusted
        or any(isinstance(value, dict) and "_target_" in value for value in nodes.values())
    ):
        return PYTHON.format(function)
    words = [*asked.words, *overrides]
    for key, value in nodes.items():
        pairs = {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
        for place, one in pairs.items():
            if (text := _word(one)) is None:
                return PYTHON.format(function)
            words.append(f"{place}={text}")
    return shlex.join(["python", "run.py", *words])


def _word(value: Any) -> str | None:
    """Return a value as a word of Hydra's; None for one that has no plain form."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return value if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value) else None

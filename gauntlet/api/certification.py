"""`gauntlet.certify`: certify a model in Python, by the same job, with the same records, as the command line."""

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch

from gauntlet.api.borrowed import awake, borrowed, steady_process
from gauntlet.api.composition import Composition
from gauntlet.api.defenses import add_defense, networks_in
from gauntlet.api.evaluation import add_threat, command_of, split_of
from gauntlet.api.inputs import InputError
from gauntlet.api.result import CertificationResult, RunsFolder
from gauntlet.api.subject import add_images, add_network, device_of, first_images, network_of
from gauntlet.data.given import FOLDER, store
from gauntlet.jobs import certification_job
from gauntlet.system.handed_objects import handed
from gauntlet.threat_model.threat import Threat

AROUND = {"smoothing": "gaussian_smoothing"}
"""Certifier -> the defense that it certifies, of a network that is handed in as it is."""


def certify(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    certifier: str = "smoothing",
    threat: Threat | None = None,
    norm: str | None = None,
    eps: str | float | None = None,
    defense: str | None = None,
    folder: str | PathLike[str] | None = None,
    name: str | None = None,
    data_name: str | None = None,
    classes: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | None = None,
    device: Any = None,
    progress: bool = False,
    overrides: Sequence[str] = (),
    **knobs: Any,
) -> CertificationResult:
    """Certify a model and return the radii, with the evidence for each image.

    Args:
        certifier: of the configuration, such as "smoothing" or "crown".
        threat: whose norm the radii are in; or norm and eps; left out: the certifier's norm, and eps as the data set
            has it.
        defense: around the model; None: of "smoothing" the "gaussian_smoothing" that it certifies, whose noise is
            overrides=["defense.sigma=0.25"], else the model as it is.
        **knobs: options of the certifier, such as samples=10000.

    The other arguments, and what is raised, are those of `gauntlet.evaluate`.
    """
    network = network_of(model)
    inner = {} if network is not None else networks_in(model)
    networks = [*inner.values()] if network is None else [network]
    for said in filter(None, map(awake, networks)):
        warnings.warn(said, stacklevel=2)
    if network is not None and defense is None:
        defense = AROUND.get(certifier)
    if isinstance(model, str) and defense is not None:
        raise InputError(f"model={model!r} names a defense already; leave defense out")
    runs = RunsFolder(folder)
    asked = Composition(words=[f"certifier={certifier}", *([f"defense={defense}"] if defense else [])])
    if knobs:
        asked.nodes["certifier"] = dict(knobs)
    add_threat(asked, threat, norm, eps, required=False)
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
        cfg, choices = asked.compose(overrides)
        if images is not None and folder is not None:
            store(images, runs.path / FOLDER)
        with handed(asked.objects):
            split = split_of(cfg)
            outcome = certification_job.certify(cfg, choices, command_of("certify", asked, overrides))
    for text, count in outcome.summary.errors.items():
        warnings.warn(f"{count} images ended with an error, and are not certified: {text}", stacklevel=2)
    return CertificationResult.of(outcome, runs, split, images)

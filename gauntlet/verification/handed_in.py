"""What Python code handed to a run, found again: its images beside the run, its network by what makes it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from gauntlet.config.validate import build
from gauntlet.data.dataset import Dataset
from gauntlet.data.given import FOLDER, stored
from gauntlet.errors import UserError, reason
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.stable_names import from_record
from gauntlet.models.given import CallableNetwork, GivenIdentity, LogitsOf
from gauntlet.system.code_file import imported, located
from gauntlet.system.handed_objects import handed

NETWORK = "gauntlet.models.given.given_network"
IMAGES = "gauntlet.data.given.GivenArrays"
FIRST = 8
"""Images that a network without weights is known by."""


def objects(
    run: RunFolder, manifest: Manifest, model: str | None = None, data: Dataset | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return what a run was handed in, by the names in its configuration, and lines about what differs.

    Args:
        model: what makes the network, as FILE.py:FUNCTION; None: nobody says it.
        data: the data set, where that of the configuration is not to be read.

    Raises:
        UserError: it makes no network, or one with other weights.
    """
    config = from_record(manifest["config"])
    above = run.path.resolve().parents
    folder = above[min(4, len(above) - 1)] / FOLDER
    found: dict[str, Any] = {}
    for node in _nodes(config, IMAGES):
        found |= stored(folder, str(node.get("content")))
    recorded = [
        GivenIdentity(*(str(node.get(key)) for key in ("kind", "weights", "structure"))) for node in _given(config)
    ]
    if not recorded or model is None:
        return found, []
    network = made(model)
    with handed(found):
        first = (data or build(OmegaConf.create(config["dataset"]))).split("test").read(slice(0, FIRST)).x
    if not isinstance(_tried(network, first, model), Tensor):
        network = LogitsOf(network)
    mine, theirs = GivenIdentity.of(network.eval(), first), recorded[0]
    if mine.weights != theirs.weights:
        raise UserError(
            f"{model} makes a network with weights {mine.weights[:19]}, the run was about {theirs.weights[:19]}; name "
            "what makes that one"
        )
    odd = "the network's classes, their source or constants are not those on record; its weights are"
    return found | {theirs.key: network}, [odd] if mine.structure != theirs.structure else []


def _tried(network: nn.Module, x: Tensor, model: str) -> Any:
    """Return what a network gives for a few images."""
    try:
        with torch.no_grad():
            return network(x)
    except Exception as cause:
        raise UserError(f"--model {model} makes a network that cannot take the images: {reason(cause)}") from cause


def made(model: str) -> nn.Module:
    """Return the network in eval mode that a function of a file makes.

    Args:
        model: FILE.py:FUNCTION, which is called without arguments, or the name of a network there.

    Raises:
        UserError: there is no such file or name, or it makes no network.
    """
    path, name = located(model, "--model")
    module = imported(path)
    try:
        network = getattr(module, name)
        if not isinstance(network, nn.Module):
            network = network()
    except Exception as cause:
        raise UserError(f"--model {model} makes no network: {reason(cause)}; check the file") from cause
    if callable(network) and not isinstance(network, nn.Module):
        network = CallableNetwork(network)
    if not isinstance(network, nn.Module):
        raise UserError(f"--model {model} gives a {type(network).__name__}, not a torch.nn.Module; let it return one")
    return network.eval()


def _given(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the distinct nodes of networks that were handed in."""
    return list({str(node): node for node in _nodes(config.get("defense"), NETWORK)}.values())


def _nodes(value: Any, target: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if value.get("_target_") == target:
            yield value
        for inner in value.values():
            yield from _nodes(inner, target)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner, target)

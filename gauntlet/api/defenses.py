"""The defense of a Python call: by name, or an object of a class of this package or of the caller's."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from gauntlet.api.composition import Composition, composed, node_of, package_of
from gauntlet.api.inputs import InputError, check_classes
from gauntlet.api.subject import Images, network_of, tried
from gauntlet.config.shipped import CONF, content
from gauntlet.models.given import GivenIdentity, LogitsOf


def networks_in(model: Any) -> dict[str, nn.Module]:
    """Return the networks that stand in a defense object as they are, in place of the configuration of one, by part.

    Raises:
        InputError: a part is none of these.
    """
    parts = getattr(model, "parts", None)
    found = {}
    for name, part in parts.items() if isinstance(parts, dict) and not isinstance(model, str | nn.Module) else ():
        if isinstance(part, nn.Module) or (callable(part) and not hasattr(part, "load")):
            network = network_of(part)
            assert network is not None
            found[name] = network
    return found


def add_defense(
    asked: Composition, model: Any, networks: dict[str, nn.Module], first: Tensor, images: Images | None,
    classes: int | None,
) -> None:  # fmt: skip
    """Add a defense, by name or as an object.

    Args:
        networks: that stand in it, in eval mode by now; see `networks_in`.
        first: images that they are tried on.
        classes: of the defense; None: told by a network that takes the images as they are.

    Raises:
        InputError: a name is given with images, the classes are not known, or a network cannot take the images.
    """
    if isinstance(model, str):
        if images is not None:
            raise InputError(
                f"the defense {model!r} takes its weights from a recipe and a data set of ours; name the data set in "
                f"place of x: evaluate({model!r}, 'digits')"
            )
        asked.words.append(f"defense={model}")
        return
    if images is not None:
        classes = classes if classes is not None else _told(networks, first)
        if classes is None:
            raise InputError("give classes=N with a defense: the number of classes that it knows")
        check_classes(images.labels, classes)
        asked.nodes["dataset"]["classes"] = classes
    node = node_of(model)
    for name, network in networks.items():
        node["parts"][name] = _part(asked, network, first)
    asked.nodes["defense"] = node
    asked.names["defense"], protocol = _choice(node["_target_"], type(model).__name__)
    if protocol is not None and not any(word.startswith("protocol=") for word in asked.words):
        asked.words.append(f"protocol={protocol}")
    asked.trusted += package_of(model)


def _part(asked: Composition, network: nn.Module, first: Tensor) -> dict[str, Any]:
    """Return the configuration of a part that is a network of the caller's."""
    part: Any = OmegaConf.to_container(composed(["defense=none"]).defense.parts.model, resolve=False)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.no_grad():
        try:
            whole = network if isinstance(network(first.to(device)), Tensor) else LogitsOf(network)
        except Exception:  # a part need not take images as they are
            whole = network
    identity = GivenIdentity.of(whole, first.to(device))
    asked.objects[identity.key] = whole
    made = {"_target_": "gauntlet.models.given.given_network", "kind": identity.kind, "weights": identity.weights}
    return {**part, "model": made | {"structure": identity.structure}, "weights": "included", "weights_key": None}


def _told(networks: dict[str, nn.Module], first: Tensor) -> int | None:
    """Return the number of classes that a network gives for the images; None where none takes them as they are."""
    for network in networks.values():
        try:
            return int(tried(network, first)[1].shape[1])
        except (InputError, IndexError):
            continue
    return None


def _choice(target: str, kind: str) -> tuple[str, str | None]:
    """Return what the configuration calls a class, and the protocol that it has there; else the name of the class."""
    nodes = {path.stem: content(path) for path in sorted((Path(CONF) / "defense").glob("*.yaml"))}
    mine = {name: node for name, node in nodes.items() if node.get("_target_") == target}
    protocols = {_protocol(node) for node in mine.values()}
    return next(iter(mine)) if len(mine) == 1 else kind.lower(), protocols.pop() if len(protocols) == 1 else None


def _protocol(node: dict[str, Any]) -> str | None:
    """Return the protocol that a choice of a defense takes in place of the usual one."""
    for entry in node.get("defaults", ()):
        for key, name in entry.items() if isinstance(entry, dict) else ():
            if key.startswith("override /protocol@"):
                return str(name)
    return None

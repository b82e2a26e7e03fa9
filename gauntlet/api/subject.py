"""What is evaluated: the caller's model on the caller's images, as a part of a composition."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gauntlet.api.composition import Composition, composed
from gauntlet.api.inputs import InputError, check_classes, images_and_labels
from gauntlet.api.streams import is_stream, stream
from gauntlet.config.runtime import Runtime
from gauntlet.config.validate import build, checked
from gauntlet.data.given import arrays_of
from gauntlet.data.in_memory import Arrays
from gauntlet.data.stream_rows import StreamRows
from gauntlet.errors import UserError, reason
from gauntlet.jobs.setup import KEYS
from gauntlet.models.given import CallableNetwork, GivenIdentity, LogitsOf
from gauntlet.models.wrapped import logits_of
from gauntlet.threat_model.process_settings import settings_kept
from gauntlet.threat_model.victim import Victim

Images = Arrays | StreamRows
"""Images of a caller with their labels."""

FIRST = 8
"""Images that a model is tried on before any work."""


def network_of(model: Any) -> nn.Module | None:
    """Return the network that a caller's model is or becomes; None for a defense, by name or as an object.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, str) or (hasattr(model, "parts") and hasattr(model, "deploy")):
        return None
    if callable(model) and not isinstance(model, type):
        return CallableNetwork(model)
    if isinstance(model, Victim):
        raise InputError(
            "model is a Victim, whose functions no record can name; give the defense that deployed it, with "
            "networks in its parts: evaluate(defense, x, y)"
        )
    what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise InputError(f"model is {what}; give a torch.nn.Module, a function from images to logits, or a defense")


def add_images(asked: Composition, x: Any, y: Any, limit: int | None, data_name: str | None) -> Images | None:
    """Add the images; return them, or None where they are a data set of the configuration, by name."""
    if limit is not None:
        asked.nodes["dataset.limit"] = limit
    if isinstance(x, str):
        if y is not None:
            raise InputError(f"x={x!r} names a data set, which holds its labels; leave y out")
        asked.words.append(f"dataset={x}")
        return None
    if x is None:
        raise InputError("x is missing; give images, or the name of a data set such as 'digits'")
    if is_stream(x):
        if y is not None:
            raise InputError(f"x is a {type(x).__name__}, which holds its labels; leave y out")
        source = stream(x, limit)
    else:
        source = arrays_of(*images_and_labels(x, y))
    asked.words.append("dataset=given")
    asked.objects[source.digest()] = source
    name = {} if data_name is None else {"name": data_name}
    asked.nodes["dataset"] = {
        "content": source.digest(), "channels": source.form[2], "size": source.form[0], "classes": 0, **name,
    }  # fmt: skip
    return source


def first_images(images: Images | None, words: Sequence[str], limit: int | None) -> Tensor:
    """Return the images that a model is tried on. words: that name the data set, where no images are given."""
    count = FIRST if limit is None else max(1, min(limit, FIRST))
    if images is None:
        dataset = checked(composed(words), [*KEYS, "hydra"]).dataset
        return build(dataset).split("test").read(slice(0, count)).x  # type: ignore[no-any-return]
    rows = np.arange(min(count, len(images.labels)))
    pixels = torch.from_numpy(images.images(rows).copy()).permute(0, 3, 1, 2)
    return pixels.to(torch.float32).div_(images.levels).contiguous()


def add_network(
    asked: Composition, network: nn.Module, first: Tensor, images: Images | None, classes: int | None, name: str | None
) -> None:
    """Add a network, which is in eval mode by now. first: the images that it is tried on.

    Raises:
        InputError: it cannot take the images, gives no logits, or has other classes than the labels.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    first = first.to(device)
    try:
        with torch.no_grad(), settings_kept():
            given = network(first)
            logits = logits_of(given)
    except UserError as cause:
        raise InputError(str(cause)) from None
    except Exception as cause:
        raise InputError(f"the model cannot take images of shape {list(first.shape)}: {reason(cause)}") from cause
    if images is not None:
        asked.nodes["dataset"]["classes"] = _classes(logits, len(first), classes)
        check_classes(images.labels, asked.nodes["dataset"]["classes"])
    whole = network if isinstance(given, Tensor) else LogitsOf(network)
    identity = GivenIdentity.of(whole, first)
    asked.words += ["model=given", "checkpoint=included"]
    asked.nodes["model"] = {"kind": identity.kind, "weights": identity.weights, "structure": identity.structure}
    asked.objects[identity.key] = whole
    asked.names["model"] = identity.kind
    if name is not None:
        asked.nodes["name"] = name


def tried(network: nn.Module, first: Tensor) -> tuple[Any, Tensor]:
    """Return what a network gives for a few images, and the logits in it.

    Raises:
        InputError: it cannot take the images, or gives no logits.
    """
    first = first.to(next((p.device for p in network.parameters()), torch.device("cpu")))
    try:
        with torch.no_grad():
            given = network(first)
            return given, logits_of(given)
    except UserError as cause:
        raise InputError(str(cause)) from None
    except Exception as cause:
        raise InputError(f"the model cannot take images of shape {list(first.shape)}: {reason(cause)}") from cause


def device_of(networks: Sequence[nn.Module], device: Any) -> str:
    """Return the device to work on: the one asked for, else that of the networks' weights, else `auto`."""
    if device is not None:
        return str(device)
    own = {str(p.device) for network in networks for p in network.parameters()}
    return own.pop() if len(own) == 1 else Runtime.device


def _classes(logits: Tensor, count: int, asked: int | None) -> int:
    if logits.dim() != 2 or len(logits) != count:
        raise InputError(
            f"the model gives scores of shape {list(logits.shape)} for {count} images; return logits [{count}, classes]"
        )
    if asked is not None and asked != logits.shape[1]:
        raise InputError(f"classes={asked}, but the model gives {logits.shape[1]} scores an image; leave classes out")
    return int(logits.shape[1])

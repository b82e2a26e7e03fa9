"""Settings of the whole process that a user's code must leave alone, since everything after it would run under them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gauntlet.errors import UserError

SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch.set_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.set_num_threads": (torch.get_num_threads, torch.set_num_threads),
    "torch.use_deterministic_algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch.autograd.set_detect_anomaly": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
}
"""The call that changes a setting -> what reads it, and what sets it."""


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put back each setting that the block changes, and refuse the block by its name.

    Raises:
        UserError: the block changed a setting and raised nothing itself.
    """
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    said = ""
    try:
        yield
    finally:
        for name, (read, put_back) in SETTINGS.items():
            if (now := read()) != before[name]:
                said = said or f"calls {name}, which changes the whole process ({before[name]} became {now})"
                put_back(before[name])
    if said:
        raise UserError(f"the model's forward {said}; leave such settings alone in a forward")

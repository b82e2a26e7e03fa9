"""The Hugging Face Hub where it answers, and its cache without waiting where it does not."""

import importlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT = 10.0
"""Seconds in which the hub has to answer; its own library asks five times, a minute in all."""


@contextmanager
def hub() -> Iterator[None]:
    """Have what is loaded in a block come from the hub, or from its cache alone where the hub does not answer."""
    constants = importlib.import_module("huggingface_hub").constants
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def answers(address: str) -> bool:
    """Return whether anything answers there, be it with an error."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True

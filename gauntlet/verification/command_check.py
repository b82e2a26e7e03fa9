"""Whether the command that a run says it was made by composes the configuration that it holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gauntlet.config import environment
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import checked
from gauntlet.errors import UserError, reason
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.recorded_command import command_words
from gauntlet.evidence.stable_names import to_record
from gauntlet.jobs.setup import KEYS
from gauntlet.training.weights_cache import canonical

FREE = ("runtime", "logger", "runs_dir", "trusted_packages")
"""Keys that change no answer."""


def command_note(manifest: Manifest, trust: Sequence[str] = (), env: Sequence[str] = ()) -> str:
    """Return what is to be said of the recorded command; empty: it gives the recorded configuration.

    Only commands that need no configuration of the user's are composed, and nothing of them is called.

    Args:
        trust: packages that the one who asks trusts; what the command says of that counts for nothing.
        env: variables of the environment that it may read.
    """
    words = command_words(manifest["command"])[2:]
    if not words:
        return "the recorded command is none of gauntlet's, and says nothing"
    if any(word.startswith(("--", "hydra.")) for word in words):
        return "the recorded command needs configurations of the user's, and was not composed"
    try:
        environment.refuse_foreign(words, env)
        with initialize_config_dir(CONF, version_base=None):
            composed = compose("run", words)
        composed.trusted_packages = list(trust)  # checking a node imports the code that it names
        found = to_record(environment.recorded(composed, checked(composed, KEYS)))
    except (UserError, HydraException, OmegaConfBaseException, ValueError) as cause:
        return f"the recorded command could not be composed here ({reason(cause)[:120]})"
    odd = next(_unlike(canonical(manifest["config"]), canonical(found), ""), "")
    return f"the recorded command gives another configuration: {odd}" if odd else ""


def _unlike(recorded: Any, found: Any, place: str) -> Iterator[str]:
    """Yield each value of the recorded configuration that the command gives otherwise."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        for key in sorted(recorded):
            if place or key not in FREE:
                yield from _unlike(recorded[key], found.get(key), f"{place}.{key}" if place else key)
    elif recorded != found:
        yield f"{place} is {str(found)[:40]}, the record says {str(recorded)[:40]}"

"""Output to the terminal: results to standard output, one line for a mistake to standard error."""

import re
import sys

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from gauntlet.cluster.sweep_overrides import missing_choice
from gauntlet.commands.command_line import meant
from gauntlet.config.environment import unresolved


def write(text: str) -> None:
    """Write to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def one_line(cause: BaseException, config_name: str = "run") -> str:
    """Return what an exception of Hydra, OmegaConf or the system says, without its hints for programmers."""
    text = str(cause)
    if isinstance(cause, MissingConfigException):
        group, _, choice = (cause.missing_cfg_file or "").rpartition("/")
        return missing_choice(group, choice, cause.options or ()) if group else text.splitlines()[0]
    if isinstance(cause, OverrideParseException) and "while evaluating" not in text:  # else Hydra tells the cause
        return (
            f"the argument {cause.override!r} cannot be read; write key=value, close each bracket, and quote a value "
            "with spaces or signs twice: \"runtime.keep='first 5'\""
        )
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename}: {cause.strerror}; choose another runs_dir, or make room there"
    if overridden := re.search(r"Could not override '([^']*)'", text):
        key = getattr(cause.__cause__, "full_key", None) or overridden[1]
        near = meant(str(key), config_name, sys.argv[1:])
        return f"unknown option {key}; " + (f"did you mean {near}?" if near else "--cfg job shows those that there are")
    if text.startswith("Config group override must be"):
        empty = [word for word in sys.argv[1:] if re.fullmatch(r"[\w/@]+=(null|\{.*\})?", word)]
        return f"{' '.join(empty)}: a choice must be a name; --help lists them"
    if isinstance(cause.__cause__, OmegaConfBaseException):
        text = f"{text}: {cause.__cause__}"
    if resolved := unresolved(text):
        return resolved
    lines = (line.strip() for line in text.splitlines())
    kept = [line for line in lines if line and not re.match(r"(See https:|full_key:|object_type=|Set the env)", line)]
    return " ".join(kept) or type(cause).__name__


def say(text: str) -> None:
    """Write to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()

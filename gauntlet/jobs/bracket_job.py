"""Attack, then certify what stands: two runs, each as if it were given alone, and the bracket that they make.

The time of the certifier goes to the samples that no attack broke. They are listed in a file beside the runs, which the
certificate run takes as `dataset.indices`; the command on its record can be pasted.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, open_dict
from safetensors.numpy import save

from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs.attack_job import Outcome, evaluate
from gauntlet.jobs.attack_setup import prepare
from gauntlet.jobs.certification_job import Certified, certify
from gauntlet.metrics.attack_summary import survivors
from gauntlet.metrics.bracket import SURVIVORS, Bracket
from gauntlet.system.atomic_file import write_atomically
from gauntlet.transfer.imported import ForeignExamples, import_set


@dataclass(frozen=True)
class Bracketed:
    """What both runs found. certified: None where nothing survived. bracket: None while the attack is not finished,
    and where the certifier proves nothing itself. judged: a run of the adversarial examples that the certifier met;
    None: none."""

    attacked: Outcome
    certified: Certified | None
    bracket: Bracket | None
    judged: Outcome | None = None


def attack_and_certify(composed: DictConfig, choices: dict[str, str], words: Sequence[str]) -> Bracketed:
    """Run, or go on with, an attack and the certification of its survivors.

    Args:
        composed: as Hydra composed it, with an attack and a certifier.
        choices: group -> name of the choice.
        words: overrides as the user typed them.

    Raises:
        UserError: the configuration is unfit for one of the two, or for both in one job.
    """
    if composed.runtime.get("shards", 1) not in (1, None):
        raise UserError(
            "attack and certifier in one job have no shards; give two commands, or leave runtime.shards out"
        )
    if (composed.get("stop_when") or {}).get("interval") is not None:
        raise UserError("attack and certifier in one job take all images; leave stop_when.interval out")
    if composed.threat.get("eps") == "unbounded":
        raise UserError("attack and certifier in one job need an eps to compare at; give threat.eps")
    own = [word for word in words if not _sets(word, "certifier")]
    attacked = evaluate(_without(composed, "certifier"), _but(choices, "certifier"), _command(own))
    if attacked.summary.randomized is not None:
        raise UserError(
            "attack and certifier in one job need a deterministic defense; the attack is done, certify by: "
            + _command([word for word in words if not _sets(word, "attack")])
        )
    if attacked.manifest["status"] != "done":
        return Bracketed(attacked, None, None)
    left, samples = survivors(attacked.run, attacked.manifest["stages"]), attacked.summary.samples
    if not left:
        return Bracketed(attacked, None, Bracket(samples, 0, samples, choices.get("certifier", "certifier")))
    listed = Path(composed.runs_dir) / SURVIVORS / f"{attacked.run.path.name}.txt"
    write_atomically(listed, "".join(f"{sample}\n" for sample in left).encode())
    config = _without(composed, "attack")
    with open_dict(config):
        config.dataset.indices, config.dataset.limit = str(listed), None
    others = ("attack", "dataset.limit", "dataset.indices")
    kept = [word for word in words if not any(_sets(word, key) for key in others)]
    certified = certify(config, _but(choices, "attack"), _command([*kept, f"dataset.indices={listed}"]))
    if certified.manifest["certificate"]["kind"] in ("estimate", "claimed"):
        return Bracketed(attacked, certified, None)  # nothing is proven by us
    radius = certified.manifest["threat"]["radius"] or 0.0
    proven = int((certified.summary.radius >= radius).sum())
    name = certified.manifest["name"]["certifier"]
    judged = _judged(composed, _but(choices, "certifier"), attacked.run, certified.run, name)
    if judged is not None:
        left = sorted(set(left) & set(survivors(judged.run, judged.manifest["stages"])))
    return Bracketed(attacked, certified, Bracket(samples, proven, samples - len(left), name), judged)


def _judged(
    composed: DictConfig, choices: dict[str, str], attacked: RunFolder, certified: RunFolder, name: str
) -> Outcome | None:
    """Judge the adversarial examples that a certifier met, as those of a file are (`gauntlet import`)."""
    met = [
        certified.read_examples(chunk) for chunk in certified.present() if certified.adversarial_path(chunk).exists()
    ]
    if not met:
        return None
    arrays = {"ids": np.concatenate([each["sample"] for each in met]), "x_adv": np.concatenate([e["z"] for e in met])}
    file = Path(composed.runs_dir) / SURVIVORS / f"{name}-{certified.path.name}.safetensors"
    write_atomically(file, save(arrays))
    command = shlex.join(["gauntlet", "import", str(file), "--for", str(attacked.path)])
    config, names = _without(composed, "certifier"), choices | {"attack": f"imported-{file.stem}"}
    job = prepare(config, choices, command)
    examples = ForeignExamples.read(file, None, tuple(arrays["x_adv"].shape[1:]))
    folder = import_set(Path(composed.runs_dir) / "_sets", examples, job.split, job.setup.request.threat, file.name)
    with open_dict(config):
        config.attack = {"_target_": "gauntlet.transfer.precomputed.Stored", "path": str(folder)}
        config.surrogates, config.heads, config.access, config.draws = {}, "declared", "gradient", None
        config.runtime.keep = "broken"
    return evaluate(config, names, command)


def _command(words: Sequence[str]) -> str:
    return shlex.join(["python", "run.py", *words])


def _sets(word: str, key: str) -> bool:
    """Return whether an override sets a key, or a field of its node."""
    name = word.lstrip("+~").partition("=")[0]
    return name == key or name.startswith(f"{key}.")


def _without(composed: DictConfig, key: str) -> DictConfig:
    """Return a copy in which a node at the root is null."""
    config = composed.copy()
    with open_dict(config):
        config[key] = None
    return config


def _but(choices: dict[str, str], group: str) -> dict[str, str]:
    return {name: choice for name, choice in choices.items() if name != group}

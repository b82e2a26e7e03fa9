"""Judge adversarial examples from elsewhere, as a run of its own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gauntlet.errors import UserError, printable
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.stable_names import from_record
from gauntlet.jobs.attack_job import Outcome, evaluate
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.system.handed_objects import handed
from gauntlet.transfer.imported import ForeignExamples, import_set
from gauntlet.verification.handed_in import objects
from gauntlet.verification.rebuild import HERE, Local, rebuild


def import_examples(
    file: Path,
    run: RunFolder,
    *,
    ids: Path | None = None,
    origin: str | None = None,
    local: Local = HERE,
    command: str = "",
) -> tuple[Outcome, tuple[str, ...]]:
    """Judge the examples of a file against the victim of a run; return the new run, and remarks on the file.

    Each row is checked against the threat and predicted anew. What is outside is recorded as an error.

    Args:
        file: .pt, .npy, .npz or .safetensors, of the size of the run's images or with ids.
        run: an attack run, whose defense, data, threat and protocol count.
        ids: a file of sample ids.
        origin: where the examples come from, in words; None: the name of the file.
        local: what is trusted, and lies elsewhere, on this machine.
        command: as it can be pasted.

    Raises:
        UserError: the file does not fit, or the run cannot be rebuilt.
    """
    with attack_job(run, local) as (job, _):
        form = tuple(job.split.read(slice(0, 1)).x.shape[1:])
        examples = ForeignExamples.read(file, ids, form)
        return judged(job, examples, printable(origin or file.name), f"imported-{file.stem}", command), examples.remarks


@contextmanager
def attack_job(run: RunFolder, local: Local) -> Iterator[tuple[AttackSetup, Manifest]]:
    """Give the job of an attack run, built anew, and its manifest; the caller's objects are at hand in the block.

    Raises:
        UserError: it is another kind of run, or cannot be rebuilt.
    """
    manifest = run.manifest()
    if manifest["kind"] != "attack":
        raise UserError(f"{run.path} holds a run of the kind {manifest['kind']}; name an attack run of the same model")
    given, _ = objects(run, manifest, local.model)
    with handed(given):
        job = rebuild(run, manifest, local)
        assert isinstance(job, AttackSetup)
        yield job, manifest


def judged(job: AttackSetup, examples: ForeignExamples, origin: str, name: str, command: str) -> Outcome:
    """Judge examples against the victim of a job that was built anew, as a run of that name; return it.

    Raises:
        UserError: they do not fit.
    """
    asked = job.setup.request
    folder = import_set(asked.runs_dir / "_sets", examples, job.split, asked.threat, origin)
    cfg: Any = OmegaConf.create(from_record(asked.recorded))  # values of the environment as they were typed
    cfg.attack = {"_target_": "gauntlet.transfer.precomputed.Stored", "path": str(folder)}
    cfg.surrogates, cfg.heads, cfg.access, cfg.draws = {}, "declared", "gradient", None
    cfg.runtime.keep = "broken"
    return evaluate(cfg, dict(asked.choices) | {"attack": file_name(name)}, command)


def file_name(text: str) -> str:
    """Return a text as the name of a folder."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("._")

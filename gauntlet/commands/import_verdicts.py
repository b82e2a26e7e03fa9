"""`gauntlet import results.csv --for RUN`: verdicts of another verifier, and its counterexamples, which are judged."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from gauntlet.certification.claimed import CLAIMS, claims_file
from gauntlet.certification.exchange.verdicts import Answer, question_key, read_results
from gauntlet.commands.import_examples import attack_job, file_name, judged
from gauntlet.errors import UserError, printable, some
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.stable_names import from_record
from gauntlet.jobs.attack_job import Outcome
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.jobs.certification_job import Certified, certify
from gauntlet.system.atomic_file import write_atomically
from gauntlet.transfer.imported import ForeignExamples
from gauntlet.verification.rebuild import HERE, Local

ROUNDED = 1e-5
"""How far outside of the threat a counterexample may lie by the rounding of its digits; it is put back."""


@dataclass(frozen=True)
class ImportedVerdicts:
    """What became of the answers of a verifier.

    Attributes:
        claimed: the run that holds what is claimed to be proven.
        judged: the run of its counterexamples; None where there are none.
        proven, violated, open: answers of each kind; samples without an answer are none of them.
    """

    claimed: Certified
    judged: Outcome | None
    proven: int
    violated: int
    open: int


def import_verdicts(
    file: Path, run: RunFolder, *, origin: str | None = None, local: Local = HERE, command: str = ""
) -> ImportedVerdicts:
    """Record what a verifier says of the images of a run, and judge its counterexamples.

    Args:
        file: `results.csv`, see `gauntlet.certification.exchange.verdicts.read_results`.
        run: an attack run on the model, data set and threat that were exported.
        origin: the name of the verifier; None: that of the file.
        local: what is trusted, and lies elsewhere, on this machine.
        command: as it can be pasted.

    Raises:
        UserError: the file does not fit, or the run cannot be rebuilt.
    """
    with attack_job(run, local) as (job, manifest):
        form = tuple(job.split.read(slice(0, 1)).x.shape[1:])
        answers = read_results(file, question_key(manifest), int(np.prod(form)))
        stray = sorted({each.sample for each in answers} - {int(sample) for sample in job.split.ids})
        if stray:
            raise UserError(f"{printable(file)} answers for samples that {run.path} does not have: {some(stray)}")
        words = printable(origin or file.stem)
        said = [[each for each in answers if each.word == word] for word in ("proven", "violated", "open")]
        outcome = None
        if said[1]:
            outcome = judged(job, _examples(job, said[1], file, form), words, f"imported-{words}", command)
        claimed = _claimed(job, manifest, [each.sample for each in said[0]], words, command)
        return ImportedVerdicts(claimed, outcome, *map(len, said))


def _examples(job: AttackSetup, answers: Sequence[Answer], file: Path, form: tuple[int, ...]) -> ForeignExamples:
    """Return the counterexamples, those just outside of the threat put back into it."""
    threat, place = job.evaluation.threat, {int(sample): at for at, sample in enumerate(job.split.ids)}
    clean = job.split.read([place[each.sample] for each in answers]).x
    z = torch.from_numpy(
        np.stack([each.image for each in answers if each.image is not None]).astype(np.float32)
    ).reshape(-1, *form)
    inside = threat.project(z, clean)
    near = (inside - z).abs().flatten(1).amax(1) <= ROUNDED
    z = torch.where((near & ~threat.contains(z, clean)).reshape(-1, 1, 1, 1), inside, z)
    ids = np.array([each.sample for each in answers], np.int64)
    return ForeignExamples(z.numpy(), ids, hashlib.sha256(file.read_bytes() + z.numpy().tobytes()).hexdigest())


def _claimed(job: AttackSetup, manifest: Any, proven: Sequence[int], origin: str, command: str) -> Certified:
    """Write the run that holds the claims."""
    asked = job.setup.request
    claims = {"origin": origin, "question": question_key(manifest), "proven": sorted(proven)}
    path, content = claims_file(asked.runs_dir / CLAIMS, claims)
    write_atomically(path, content)
    cfg: Any = OmegaConf.create(from_record(asked.recorded))
    cfg.attack, cfg.surrogates, cfg.heads, cfg.access, cfg.draws = None, {}, "declared", "gradient", None
    cfg.certifier = {"_target_": "gauntlet.certification.claimed.Claimed", "path": str(path)}
    names = {key: choice for key, choice in asked.choices.items() if key != "attack"}
    return certify(cfg, names | {"certifier": file_name(f"claimed-{origin}")}, command)

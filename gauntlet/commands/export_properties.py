"""`gauntlet export RUN --vnnlib DIR`: the deployed network and a question for each image, for verifiers of others."""

import csv
import io
from pathlib import Path

from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.exchange.onnx_export import onnx_network
from gauntlet.certification.exchange.verdicts import property_name, question_key
from gauntlet.certification.exchange.vnnlib import Property
from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.metrics.attack_summary import survivors
from gauntlet.system.atomic_file import write_atomically
from gauntlet.threat_model.rng import Rng

BATCH = 64

NETWORK = "network.onnx"


def export_properties(job: AttackSetup, run: RunFolder, to: Path, *, left: bool, timeout: float) -> tuple[int, int]:
    """Write `network.onnx`, one VNN-LIB property an image, and `instances.csv`, as in the VNN-COMP.

    The box of a property holds every image that the threat calls legal, its tolerances included, so that "unsat" says
    the same as a proof of ours does. Images that are wrong without an attack are left out: they are counterexamples.

    Args:
        job: of the run, built anew.
        to: folder; written to below.
        left: only images that no stage of the run broke.
        timeout: seconds for each, for the verifier.

    Returns:
        How many images were written, of how many.

    Raises:
        UserError: the threat is no box or has targets, the defense draws random numbers, its network cannot be
            written, or no image is left.
    """
    victim, threat = job.setup.target.victim, job.evaluation.threat
    if threat.norm != "linf" or threat.unbounded:
        raise UserError("VNN-LIB asks about boxes of pixels; take a run with threat=linf and an eps")
    if threat.targeted:
        raise UserError("a property asks about every other class; take a run without threat.goal=targeted")
    if victim.randomized:
        raise UserError("a verifier needs a deterministic network, and this defense draws random numbers")
    chosen = set(survivors(run, job.manifest["stages"]) if left else _right(run))
    if not chosen:
        raise UserError(f"{run.path}: no image is {'left' if left else 'right'}, so there is nothing to ask")
    key, rows = question_key(job.manifest), []
    (to / "onnx").mkdir(parents=True, exist_ok=True)
    (to / "vnnlib").mkdir(exist_ok=True)
    write_atomically(to / "onnx" / NETWORK, _network(job))
    for start in range(0, len(job.split), BATCH):
        batch = job.split.read(slice(start, start + BATCH))
        region = legal(threat, batch.x)
        for at, sample in enumerate(batch.ids.tolist()):
            if sample in chosen:
                lower, upper = (end[at].flatten().numpy() for end in (region.lower, region.upper))
                label = int(batch.y[at])
                asked = Property(lower, upper, label, job.setup.dataset.classes)
                about = f"sample {sample}, label {label}, {threat.label}; sat: another class can win"
                name = property_name(key, sample)
                write_atomically(to / "vnnlib" / name, asked.text(about).encode())
                rows.append((f"onnx/{NETWORK}", f"vnnlib/{name}", f"{timeout:g}"))
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    write_atomically(to / "instances.csv", file.getvalue().encode())
    return len(rows), len(job.split)


def _network(job: AttackSetup) -> bytes:
    batch, device, victim = job.split.read(slice(0, BATCH)), job.setup.device, job.setup.target.victim
    rng = Rng(job.evaluation.seed, batch.ids.to(device), CLEAN_STAGE)
    return onnx_network(lambda images: victim.predict(images, rng), victim.modules, batch.x.to(device))


def _right(run: RunFolder) -> list[int]:
    """Return the samples that are right without an attack."""
    found: list[int] = []
    for table in run.read_parts():
        rows = table.to_pandas()
        found += rows["sample"][(rows["stage"] == CLEAN_STAGE) & ~rows["broken"] & rows["error"].isna()].tolist()
    return found

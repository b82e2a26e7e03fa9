"""Re-check finished runs: `gauntlet verify runs/...`.

The check reads the files, builds data, defense and threat anew from the recorded configuration, and compares what the
run claims with what that gives. It shares no code with the attacks or their judge: distances are measured in NumPy, and
predictions made in another batch composition. What it finds goes to `verification.json`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray

from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError, described, printable
from gauntlet.evidence.digest import adversarial_digest, manifest_digest, records_digest
from gauntlet.evidence.example_storage import StoragePolicy
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.recorded_command import shown_command
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.provenance import now
from gauntlet.verification.rebuild import discrepancies, rebuild
from gauntlet.verification.report import SHOWN, Report, lines
from gauntlet.verification.repredict import repeated
from gauntlet.verification.row_checks import (
    Key,
    attempts,
    claims,
    distance_of,
    entries,
    reach_of,
    row_problems,
    stored_keys,
)

BATCH = 37
"""Images per prediction; not a size that an attack is likely to have used."""


def verify(run: RunFolder, trust: Sequence[str] = (), env: Sequence[str] = ()) -> Report:
    """Check one finished run: its manifest, its rows, its clean predictions and its adversarial examples.

    Args:
        trust: packages beyond gauntlet's that its configuration may call.
        env: variables of the environment that its configuration may read.

    Raises:
        UserError: the run is not finished or not an attack, a file is damaged, or its data or weights are gone.
    """
    manifest = run.manifest()
    if manifest["kind"] != "attack":
        raise UserError(f"{run.path} holds a run of the kind {manifest['kind']}; only attacks can be verified")
    if manifest["status"] not in ("done", "failed"):
        raise UserError(f"{run.path} is not finished; run its command again to go on: {shown_command(manifest)}")
    try:
        job = rebuild(run, manifest, trust, env)
    except UserError as cause:
        raise UserError(f"{run.manifest_path}: {cause}") from cause
    except Exception as cause:  # whatever somebody else's configuration may do to what is built from it
        raise UserError(
            f"{run.manifest_path} cannot be used: its config cannot be built ({described(cause)}); run again"
        ) from cause
    report = Report(keep=StoragePolicy.of_run(manifest))
    report.problems += discrepancies(run, manifest, job)
    present, wanted = run.present(), set(range(job.manifest["chunks"]))
    report.problems += [f"chunk {chunk}: its records are missing" for chunk in sorted(wanted - present)]
    report.problems += [f"chunk {chunk}: the run has no such chunk" for chunk in sorted(present - wanted)]
    report.problems += _strays(run, wanted)
    for chunk in sorted(present & wanted):
        try:
            _check_chunk(report, run, chunk, job, manifest)
        except UserError as cause:
            report.problems.append(f"chunk {chunk}: {cause}")
    return report


def _strays(run: RunFolder, wanted: set[int]) -> Iterator[str]:
    known = {run.adversarial_path(chunk) for chunk in wanted}
    for path in sorted(run.path.glob("adversarial/part-*.safetensors")):
        if path not in known:
            yield f"{path.name}: adversarial examples of no chunk of this run"


def _check_chunk(report: Report, run: RunFolder, chunk: int, job: AttackSetup, manifest: Manifest) -> None:
    size, stages = job.manifest["chunk"], job.manifest["stages"]
    positions = range(len(job.split))[chunk * size : (chunk + 1) * size]
    place = {int(job.split.ids[at]): at for at in positions}
    table = run.read_part(chunk).to_pandas()
    report.problems += row_problems(
        table, list(place), stages, reach_of(job.manifest["threat"]), job.evaluation.coverage
    )
    errors = int(table["error"].notna().sum())
    if errors and manifest["status"] == "done":
        report.problems.append(f"chunk {chunk}: {errors} rows have an error, yet the run is called done")
    _check_clean(report, table, place, job)
    mine = claims(table)
    known = attempts(table) if report.keep.every else mine
    report.claimed += len(mine)
    about = set(report.keep.of_chunk(job.split.ids[positions.start : positions.stop], positions.start).tolist())
    if not about and not run.adversarial_path(chunk).exists():
        return
    due = [key for key in known if key[0] in about]
    try:
        stored = _stored(run, chunk)
        keys = stored_keys(stored, stages, tuple(job.split.read(positions[:1]).x.shape[1:]))
    except ValueError as cause:
        report.problems.append(f"chunk {chunk}: {run.adversarial_path(chunk).name} is not sound: {cause}")
        return
    index = {key: number for number, key in enumerate(keys)}
    if len(index) < len(keys):
        report.problems.append(f"chunk {chunk}: {len(keys) - len(index)} adversarial examples are stored twice")
    odd = [(key, "no adversarial example is stored") for key in due if key not in index]
    odd += [(key, "an adversarial example is stored, but its row does not say broken") for key in set(index) - {*known}]
    report.problems += [f"{_who(key)}: {line}" for key, line in sorted(odd)]
    report.shown += len(mine.keys() & index.keys())
    found = [(key, known[key], number) for key, number in index.items() if key in known and key[0] in place]
    for start in range(0, len(found), BATCH):
        _check_examples(report, found[start : start + BATCH], stored, place, job)


def _check_clean(report: Report, table: pd.DataFrame, place: dict[int, int], job: AttackSetup) -> None:
    """Repeat the prediction of every clean image of a chunk."""
    rows = {int(row.sample): row for row in entries(table[table["stage"] == CLEAN_STAGE])}
    at = list(place.values())
    for start in range(0, len(at), BATCH):
        batch: Batch = job.split.read(at[start : start + BATCH])
        again = repeated(job.evaluation, batch.x, batch.ids, batch.y)
        for n, (sample, label, pred) in enumerate(zip(batch.ids.tolist(), batch.y.tolist(), again.pred, strict=True)):
            report.samples += 1
            row = rows.get(sample)
            if row is not None and (row.label, row.clean_pred, row.pred) != (label, pred, pred):
                report.problems.append(
                    f"sample {sample} (clean): label {label} and prediction {pred}, the record says {row.label} and "
                    f"{row.clean_pred if row.clean_pred != pred else row.pred}"
                )
            if row is not None:
                told = again.lines(n, row, job.evaluation.protocol.draws)
                report.problems += [f"sample {sample} (clean): {line}" for line in told]


def _check_examples(
    report: Report,
    found: list[tuple[Key, Any, int]],
    stored: dict[str, NDArray[Any]],
    place: dict[int, int],
    job: AttackSetup,
) -> None:
    at = [number for _, _, number in found]
    z, x = stored["z"][at], stored["x"][at]
    clean = job.split.read([place[key[0]] for key, _, _ in found])
    again = repeated(job.evaluation, torch.from_numpy(z.copy()), clean.ids, clean.y)
    for n, ((key, row, _), pred) in enumerate(zip(found, again.pred, strict=True)):
        label, told = int(clean.y[n]), list(again.lines(n, row, job.evaluation.protocol.draws))
        report.checked += 1
        if clean.x[n].numpy().tobytes() != x[n].tobytes():
            told.append("the image it starts from is not the data set's")
        if label != row.label:
            told.append(f"the label is {label}, the record says {row.label}")
        distance, why = distance_of(z[n], clean.x[n].numpy(), job.manifest["threat"])
        if why:
            told.append(why)
        elif abs(distance - row.distance) > 1e-6 * max(1.0, distance):
            told.append(f"distance {distance:.8g}, the record says {row.distance:.8g}")
        if row.broken and pred == label:
            told.append(f"the defense predicts the true class {pred}")
        elif pred != row.pred:
            told.append(f"the defense predicts {pred}, the record says {row.pred}")
        report.problems += [f"{_who(key)}: {line}" for line in told]


def _who(key: Key) -> str:
    return f"sample {key[0]} ({key[1]})"


def _stored(run: RunFolder, chunk: int) -> dict[str, NDArray[Any]]:
    try:
        return run.read_examples(chunk)
    except FileNotFoundError:
        raise ValueError("it is missing") from None


def main(arguments: list[str] | None = None) -> int:
    """Verify each run below the given folders; 0 = everything holds."""
    parser = argparse.ArgumentParser(prog="gauntlet verify", description="Re-check finished runs.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package that runs may call")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable that runs may read")
    options = parser.parse_args(arguments)
    failures = judged = 0
    try:
        runs = [run for folder in options.folders for run in _runs_in(folder)]
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    for run in runs:
        try:
            if run.path not in options.folders and run.manifest()["kind"] == "certificate":
                sys.stdout.write(f"{printable(run.path)}: certificates, which the board holds against attacks\n")
                continue
            judged += 1
            failures += not _judged(run, options.trust, options.env)
        except UserError as cause:
            sys.stderr.write(f"error: {printable(cause)}\n")
            failures += 1
    if not judged and not failures:
        sys.stderr.write("error: nothing was verified: there are only certificates; name a folder that holds attacks\n")
    return 1 if failures or not judged else 0


def _judged(run: RunFolder, trust: Sequence[str], env: Sequence[str]) -> bool:
    """Verify a run; print the verdict, and leave it beside the run, bound to the files as they were before it."""
    try:
        digests = {
            "records_digest": records_digest(run),
            "manifest_digest": manifest_digest(run),
            "adversarial_digest": adversarial_digest(run),
        }
    except OSError as cause:
        raise UserError(f"{run.path} cannot be read ({cause.strerror or cause}); check its files") from None
    report = verify(run, trust, env)
    content = {
        "verified": report.verified,
        "partial": report.partial,
        **digests,
        "checked": report.checked,
        "claimed": report.claimed,
        "failed": len(report.problems),
        "problems": report.problems[:SHOWN] or ([] if report.verified else [report.lack]),
        "time": now(),
    }
    for line in "\n".join(lines(run, report)).split("\n"):
        sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()  # the verdict comes before what is said of its storage
    try:
        write_atomically(run.path / "verification.json", (json.dumps(content, indent=1) + "\n").encode())
    except UserError as cause:
        here = "make that folder writable, or verify a copy of the runs folder"
        why = str(cause).replace("choose another place with runs_dir=DIR", here)
        raise UserError(f"the verdict is not stored: {why}") from cause
    return report.verified


def _runs_in(folder: Path) -> list[RunFolder]:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give a run folder such as runs/digits/linf-0.15/none/pgd/0123456789ab"
        )
    runs = find_runs(folder)
    if not runs:
        raise UserError(f"there is no run.json below {folder}; make a run first, for example: python run.py attack=pgd")
    return runs

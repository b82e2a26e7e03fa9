"""Re-check stored adversarial examples: `python -m harness.verify runs/...`.

The check shares no code path with the attack or its judge: it reads the files, loads the data and the weights anew,
measures distances in NumPy, and predicts in another batch composition. What it finds goes to `verification.json`.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from harness import checkpoint
from harness.compose import build, checked
from harness.data.contract import Split
from harness.environment import now
from harness.errors import UserError
from harness.evidence_digest import records_digest
from harness.records import Manifest, RunFolder, find_runs, write_atomically
from harness.rng import Rng
from harness.victim import Victim

BATCH = 37
"""Images per prediction; not a size that an attack is likely to have used."""


@dataclass
class Report:
    """What was checked in one run.

    Attributes:
        checked: stored adversarial examples.
        claimed: rows that say "broken" in a stage other than the clean one.
        problems: one line each; empty = verified.
    """

    checked: int = 0
    claimed: int = 0
    problems: list[str] = field(default_factory=list)


def verify(run: RunFolder) -> Report:
    """Check one finished run.

    For each row that says "broken": its example is stored; it starts from the data set's image, bit for bit; it is
    finite, in the box and within eps; the distance is the recorded one; and the deployed defense, rebuilt from the
    recorded configuration with the recorded weights, gives a wrong class, the recorded one.

    Raises:
        UserError: the run is not finished, or its data or weights are no longer there.
    """
    manifest = run.manifest()
    if manifest["status"] not in ("done", "failed"):
        raise UserError(f"{run.path} is not finished; run its command again to go on: {manifest['command']}")
    split, victim = _rebuild(manifest)
    report = Report()
    place = {int(sample): number for number, sample in enumerate(split.ids)}
    for chunk in sorted(run.present()):
        table = run.read_part(chunk).to_pandas()
        claims = table[(table["broken"]) & (table["stage"] != "clean") & (table["error"].isna())]
        report.claimed += len(claims)
        stored = _stored(run, chunk)
        index = {
            (int(s), manifest["stages"][1 + int(k)]): n
            for n, (s, k) in enumerate(zip(stored["sample"], stored["stage"], strict=True))
        }
        rows = [(row, index.get((int(row.sample), row.stage))) for row in claims.itertuples()]
        missing = [row for row, at in rows if at is None]
        report.problems += [f"sample {row.sample} ({row.stage}): no adversarial example is stored" for row in missing]
        found = [(row, at) for row, at in rows if at is not None]
        for start in range(0, len(found), BATCH):
            _check(report, found[start : start + BATCH], stored, split, place, victim, manifest)
    return report


def _check(
    report: Report,
    found: list[tuple[Any, int]],
    stored: dict[str, NDArray[Any]],
    split: Split,
    place: dict[int, int],
    victim: Victim,
    manifest: Manifest,
) -> None:
    at = [position for _, position in found]
    z, x = stored["z"][at], stored["x"][at]
    clean = split.read([place[int(row.sample)] for row, _ in found])
    ids = torch.tensor([int(row.sample) for row, _ in found])
    with torch.no_grad():
        preds = victim.predict(torch.from_numpy(z.copy()), Rng(manifest["seed"], ids, "verify")).argmax(1)
    for n, (row, _) in enumerate(found):
        who = f"sample {row.sample} ({row.stage})"
        report.checked += 1
        if not np.array_equal(x[n], clean.x[n].numpy()):
            report.problems.append(f"{who}: the image it starts from is not the data set's")
        elif int(clean.y[n]) != row.label:
            report.problems.append(f"{who}: the label is {int(clean.y[n])}, the record says {row.label}")
        distance, why = _distance(z[n], x[n], manifest["threat"])
        if why:
            report.problems.append(f"{who}: {why}")
        elif abs(distance - row.distance) > 1e-6 * max(1.0, distance):
            report.problems.append(f"{who}: distance {distance:.8g}, the record says {row.distance:.8g}")
        pred = int(preds[n])
        if pred == row.label:
            report.problems.append(f"{who}: the defense predicts the true class {pred}")
        elif pred != row.pred:
            report.problems.append(f"{who}: the defense predicts {pred}, the record says {row.pred}")


def _distance(z: NDArray[Any], x: NDArray[Any], threat: dict[str, Any]) -> tuple[float, str]:
    """Distance in the norm of the threat, and what is illegal about z."""
    if not np.isfinite(z).all():
        return 0.0, "the example has NaN or infinite pixels"
    if z.min() < threat["low"] or z.max() > threat["high"]:
        return 0.0, f"pixels from {z.min():.6g} to {z.max():.6g}, outside the box"
    delta = np.abs(z.astype(np.float64) - x.astype(np.float64))
    norms = {
        "linf": lambda: delta.max(),
        "l2": lambda: np.sqrt((delta**2).sum()),
        "l1": lambda: delta.sum(),
        "l0": lambda: (delta > 0).any(axis=0).sum(),
    }
    distance = float(norms[threat["norm"]]())
    if distance > threat["radius"] * (1 + 1e-6) + 1e-7:
        return distance, f"distance {distance:.8g} exceeds eps {threat['radius']:.8g}"
    return distance, ""


def _stored(run: RunFolder, chunk: int) -> dict[str, NDArray[Any]]:
    path = run.adversarial_path(chunk)
    empty: dict[str, NDArray[Any]] = {
        "sample": np.zeros(0, np.int64),
        "stage": np.zeros(0, np.uint8),
        "x": np.zeros(0),
        "z": np.zeros(0),
    }
    if not path.exists():
        return empty
    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
        return tensors
    except (SafetensorError, OSError) as cause:
        raise UserError(
            f"{path} is damaged ({str(cause).splitlines()[0]}); delete the run folder and run again"
        ) from None


def _rebuild(manifest: Manifest) -> tuple[Split, Victim]:
    """The data and the deployed defense, from the recorded configuration; their digests must be the recorded ones."""
    cfg = OmegaConf.create(manifest["config"])
    assert isinstance(cfg, DictConfig)
    cfg = checked(cfg, [str(key) for key in cfg])
    dataset = build(cfg.dataset)
    split: Split = dataset.split("test")
    if split.digest() != manifest["dataset"]["digest"] or split.selection() != manifest["dataset"]["selection"]:
        raise UserError(f"the data set {dataset.name} is no longer the one of this run (its digest differs)")
    defense = build(cfg.defense)
    models: dict[str, nn.Module] = {}
    waiting = dict(defense.parts)  # run.json is ordered by key: what a part uses may come after it
    while waiting:
        name = next(name for name, part in waiting.items() if all(other in models for other in part.uses))
        part = waiting.pop(name)
        trained = part.load(
            dataset, Path(cfg.runs_dir) / "_trained", given={other: models[other] for other in part.uses}
        )
        if checkpoint.digest(trained.module) != manifest["weights"][name]:
            raise UserError(f"the weights of {name} are no longer those of this run (their digest differs)")
        models[name] = trained.module.eval()
    victim: Victim = defense.deploy(models)
    for module in victim.modules:
        module.eval()
    return split, victim


def main(arguments: list[str] | None = None) -> int:
    """Verify each run below the given folders; 0 = everything holds."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.verify", description="Re-check stored adversarial examples."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    failures = 0
    try:
        runs = [run for folder in parser.parse_args(arguments).folders for run in _runs_in(folder)]
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    for run in runs:
        try:
            report = verify(run)
        except UserError as cause:
            sys.stderr.write(f"error: {cause}\n")
            failures += 1
            continue
        failures += bool(report.problems)
        content = {
            "verified": not report.problems,
            "records_digest": records_digest(run),
            "checked": report.checked,
            "claimed": report.claimed,
            "failed": len(report.problems),
            "problems": report.problems[:20],
            "time": now(),
        }
        write_atomically(run.path / "verification.json", (json.dumps(content, indent=1) + "\n").encode())
        verdict = "verified" if not report.problems else f"{len(report.problems)} PROBLEMS"
        sys.stdout.write(
            f"{verdict}: {run.path}\n  {report.claimed} broken samples claimed, {report.checked} adversarial examples "
            "reloaded: start image, box, distance, and a fresh prediction by the rebuilt defense\n"
        )
        for problem in report.problems[:20]:
            sys.stdout.write(f"  {problem}\n")
    return 1 if failures else 0


def _runs_in(folder: Path) -> list[RunFolder]:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give a run folder such as runs/digits/linf-3_20/none/pgd/0123456789ab"
        )
    runs = find_runs(folder)
    if not runs:
        raise UserError(f"there is no run.json below {folder}; make a run first, for example: python run.py attack=pgd")
    return runs


if __name__ == "__main__":
    sys.exit(main())

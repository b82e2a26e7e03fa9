"""`gauntlet export RUN --to FILE`: the adversarial set of a run as .pt, .npz or PNG files; with --vnnlib, questions."""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gauntlet.commands.export_properties import export_properties
from gauntlet.errors import UserError, printable
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.handed_objects import handed
from gauntlet.verification.handed_in import objects
from gauntlet.verification.rebuild import Local, rebuild
from gauntlet.verification.repredict import repeated
from gauntlet.verification.row_checks import distance_of

BATCH = 64


def adversarial_set(job: AttackSetup, run: RunFolder, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the set of a run: every image in the order of the run, replaced by the example that broke it.

    Returns:
        x_adv float32 [n, C, H, W]; ids, y and pred int64 [n]; broken bool [n]: by an attack; clean_wrong bool [n].

    Raises:
        UserError: a part is damaged, or an example that a row speaks of is not stored.
    """
    x = job.split.read(slice(0, len(job.split)))
    place = {int(sample): row for row, sample in enumerate(x.ids)}
    z, pred = x.x.numpy().copy(), np.full(len(place), -1, np.int64)
    broken, wrong, rank = np.zeros(len(place), bool), np.zeros(len(place), bool), np.full(len(place), -1.0)
    for chunk in sorted(run.present()):
        table = run.read_part(chunk).to_pandas()
        try:
            arrays, stages = run.read_staged_examples(chunk)
        except FileNotFoundError:
            arrays, stages = {"sample": np.zeros(0, np.int64), "stage": np.zeros(0, np.uint16)}, []
        keys = [(int(s), stages[int(k)]) for s, k in zip(arrays["sample"], arrays["stage"], strict=True)]
        where = {key: number for number, key in enumerate(keys)}
        for row in table[table["error"].isna()].itertuples(index=False):
            at, share = place[int(row.sample)], float(getattr(row, "wrong_share", 1.0))
            if row.stage == CLEAN_STAGE:
                wrong[at], pred[at] = row.broken, row.pred
            elif row.broken and share > rank[at]:
                if (key := (int(row.sample), str(row.stage))) not in where:
                    raise UserError(
                        f"{run.path} does not store its adversarial examples (runtime.keep={manifest.get('keep')}); "
                        "run its command again with runtime.keep=broken"
                    )
                z[at], pred[at], broken[at], rank[at] = arrays["z"][where[key]], row.pred, True, share
    return {
        "x_adv": z, "y": x.y.numpy(), "ids": x.ids.numpy(), "pred": pred, "broken": broken, "clean_wrong": wrong,
    }  # fmt: skip


def rounded(job: AttackSetup, found: dict[str, NDArray[Any]]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the images in 8 bits, [n, H, W, C], and which of the examples are still inside the threat and broken."""
    if job.evaluation.threat.parametric:
        raise UserError("8 bits would leave the set of a transformation; export to a file, such as examples.npz")
    eight = np.round(found["x_adv"] * 255).clip(0, 255).astype(np.uint8)
    z = eight.astype(np.float32) / np.float32(255)
    remain = np.zeros(len(z), bool)
    due = np.flatnonzero(found["broken"])
    for start in range(0, len(due), BATCH):
        at = due[start : start + BATCH]
        clean = job.split.read(at.tolist())
        said = repeated(
            job.evaluation,
            torch.from_numpy(z[at]),
            clean.ids,
            clean.y,
            found["pred"][at] if job.evaluation.threat.targeted else None,
        )
        for row, image, pred in zip(at, clean.x.numpy(), said.pred, strict=True):
            inside = not distance_of(z[row], image, job.manifest["threat"])[1]
            held = pred == found["pred"][row] if job.evaluation.threat.targeted else pred != found["y"][row]
            remain[row] = inside and held
    return eight.transpose(0, 2, 3, 1), remain


def write(to: Path, found: dict[str, NDArray[Any]], pixels: NDArray[np.uint8] | None) -> None:
    """Write a set to a .pt or .npz file, or its 8-bit pixels to a folder of PNG files with labels.json.

    Raises:
        UserError: the place cannot be written.
    """
    if pixels is None:
        file = io.BytesIO()
        if to.suffix == ".pt":
            torch.save({name: torch.from_numpy(array) for name, array in found.items()}, file)
        else:
            np.savez(file, **found)  # type: ignore[arg-type]
        write_atomically(to, file.getvalue())
        return
    to.mkdir(parents=True, exist_ok=True)
    labels = {}
    for row, sample in enumerate(found["ids"].tolist()):
        name = f"{sample:08d}.png"
        Image.fromarray(pixels[row].squeeze(-1) if pixels.shape[-1] == 1 else pixels[row]).save(to / name)
        labels[name] = {"label": int(found["y"][row]), "broken": bool(found["broken"][row])}
    (to / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Export the set of a run, or questions about its model; 0 unless a mistake was made."""
    about = "Write the adversarial set of a run, or its network and images for verifiers of others."
    parser = argparse.ArgumentParser(prog="gauntlet export", description=about)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of an attack run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", type=Path, metavar="FILE", help=".pt, .npz, or a folder for PNG files")
    what.add_argument(
        "--vnnlib", type=Path, metavar="DIR", help="folder for ONNX, VNN-LIB and instances.csv (VNN-COMP)"
    )
    parser.add_argument(
        "--survivors", action="store_true", help="with --vnnlib: only images that the run did not break"
    )
    parser.add_argument("--timeout", type=float, default=100, metavar="S", help="with --vnnlib: seconds an image (100)")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package that the run may call")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable that the run may read")
    parser.add_argument("--model", metavar="FILE.py:FUNCTION", help="what makes the network of a run made in Python")
    options = parser.parse_args(arguments)
    run = RunFolder(options.run)
    try:
        manifest = run.manifest()
        if manifest["kind"] != "attack" or manifest["status"] == "running":
            raise UserError(f"{run.path} is no finished attack run; name one")
        if options.to and options.to.suffix not in (".pt", ".npz", ""):
            raise UserError(f"--to {options.to} is of no known kind; end it in .pt or .npz, or name a folder for PNG")
        given, _ = objects(run, manifest, options.model)
        with handed(given):
            job = rebuild(run, manifest, Local(options.trust, options.env))
        assert isinstance(job, AttackSetup)
        if options.vnnlib:
            asked, total = export_properties(job, run, options.vnnlib, left=options.survivors, timeout=options.timeout)
            sys.stdout.write(f"{asked} of {total} images asked about: {printable(options.vnnlib)}\n")
            return 0
        found = adversarial_set(job, run, manifest)
        pixels, remain = (None, found["broken"]) if options.to.suffix else rounded(job, found)
        write(options.to, found, pixels)
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    except OSError as cause:
        place = printable(options.to or options.vnnlib)
        sys.stderr.write(f"error: {place} cannot be written ({cause.strerror}); name another place\n")
        return 1
    count = int(found["broken"].sum())
    sys.stdout.write(f"{len(found['ids'])} images, {count} of them adversarial examples: {printable(options.to)}\n")
    if pixels is not None:
        sys.stdout.write(
            f"PNG holds 8 bits: of the {count}, {int(remain.sum())} are still inside the threat and misclassified "
            "after rounding; .pt and .npz keep them as they were judged\n"
        )
    return 0

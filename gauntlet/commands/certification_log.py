"""Public certification logs: read them, write them, and find out how they were made.

    gauntlet audit FILE ... --sigma 0.5
    gauntlet audit RUN --write FILE

The format is that of Cohen et al. 2019: tab-separated idx, label, predict, radius, correct, time; -1 abstains. The
largest radii of a log form a ladder: with N draws of which 0, 1, 2, ... missed the class, sigma Phi^-1 of the
Clopper-Pearson bound at alpha. Which ladder it is tells alpha and N, whatever the paper says. A ladder whose steps
belong to far fewer draws than its top has scaled counts, as if 1000 draws had been 100,000: such radii are no
certificates.
"""

import argparse
import csv
import io
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.metrics.confidence import lower, mean_interval, wilson
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.file_reader import check_regular

Floats = NDArray[np.float64]

COLUMNS = ("idx", "label", "predict", "radius", "correct")

ALPHAS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05)
DRAWS = (100, 200, 250, 400, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
"""What a ladder is compared with."""

RUNGS, SKIPPED = 4, 12
"""Largest radii that are looked at, and rungs of a ladder that they may lie on."""

WRITTEN = 6
"""Digits behind the point of the radii of this project, which are rounded down."""

CROWDED = 0.2
"""Share of the images on the top rung above which a log says little about how radii differ."""


@dataclass(frozen=True, eq=False)
class CertificationLog:
    """A certification log; arrays of one entry per image. digits: significant ones of the radii; decimals: theirs."""

    sample: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]
    radius: Floats
    correct: NDArray[np.bool_]
    seconds: Floats
    digits: int = 3
    decimals: int = 3

    def certified(self, radius: float) -> float:
        """Return the share that is predicted right and certified at that radius; abstentions count as wrong."""
        return float(np.mean(self.correct & (self.predict >= 0) & (self.radius >= radius)))

    @property
    def average(self) -> float:
        """Average certified radius, zero where wrong."""
        return float(np.mean(np.where(self.correct, self.radius, 0.0)))

    @property
    def abstained(self) -> float:
        return float(np.mean(self.predict < 0))


@dataclass(frozen=True)
class Audit:
    """What the ladder of a log says.

    Attributes:
        alpha, draws: None where too few radii are large to tell, or they lie on no ladder.
        scale: by which the counts were multiplied; 1 in an honest log.
        top: share of the images with the largest radius.
    """

    alpha: float | None
    draws: int | None
    scale: int
    top: float
    problems: tuple[str, ...]


def read(path: Path) -> CertificationLog:
    """Read a log.

    Raises:
        UserError: it is not there, has other columns, or a line that cannot be read; the message names it.
    """
    try:
        check_regular(path, None, "give a tab-separated certification log")
        with path.open(newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise UserError(f"{path} is no certification log: it lacks the column {missing[0]}")
            rows = [_row(path, number, row) for number, row in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError) as cause:
        raise UserError(f"{path} cannot be read ({cause}); give a tab-separated certification log") from None
    if not rows:
        raise UserError(f"{path} holds no certificates")
    columns = list(zip(*rows, strict=True))
    return CertificationLog(
        np.array(columns[0], np.int64),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.int64),
        np.array(columns[3], float),
        np.array(columns[4], bool),
        np.array(columns[5], float),
        max(3, *columns[6]),
        max(3, *columns[7]),
    )


def _row(path: Path, number: int, row: dict[str, str]) -> tuple[int, int, int, float, bool, float, int, int]:
    try:
        radius = float(row["radius"])
        if not 0 <= radius < math.inf:
            raise ValueError(row["radius"])
        idx, label, predict = (int(row[name]) for name in COLUMNS[:3])
        mantissa, _, power = row["radius"].strip().lower().partition("e")
        digits = len(mantissa.replace(".", "").lstrip("0"))
        decimals = len(mantissa.partition(".")[2]) - int(power or 0)
        seconds = _seconds(row.get("time") or "0")
        return idx, label, predict, radius, bool(int(row["correct"])), seconds, digits, decimals
    except (ValueError, TypeError) as cause:
        raise UserError(f"{path}, line {number} cannot be read ({cause})") from None


def write(folder: Path, path: Path) -> int:
    """Write the certificates of a run as such a log, and return how many. Reading it gives the same numbers.

    Raises:
        UserError: the folder holds no finished run with certificates, or the file cannot be written.
    """
    run = RunFolder(folder)
    manifest = run.manifest()
    if manifest.get("kind") != "certificate" or manifest.get("status") != "done":
        raise UserError(f"{folder} holds no finished run of a certifier, so there is no log to write")
    count, file = 0, io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow((*COLUMNS, "time"))
    for chunk in sorted(run.present()):
        rows = run.read_part(chunk).select(["sample", "label", "predict", "radius", "correct"]).to_pylist()
        each = sum(run.read_seconds(chunk).values()) / max(len(rows), 1)
        count += len(rows)
        for row in rows:
            sample, label, predict, radius, correct = row.values()
            writer.writerow((sample, label, predict, repr(radius), int(correct), f"{each:.6f}"))
    write_atomically(path, file.getvalue().encode())
    return count


def _seconds(text: str) -> float:
    """Return the seconds of a text: plain ones, or H:MM:SS.ffffff."""
    total = 0.0
    for part in text.strip().split(":"):
        total = 60 * total + float(part)
    return total


def ladder(alpha: float, draws: int, scale: int = 1, rungs: int = RUNGS) -> Floats:
    """Return the largest radii over sigma that so many draws can give, by misses 0, 1, 2, ...; counts times `scale`."""
    misses = np.arange(rungs) * scale
    total = draws * scale
    heights: Floats = special.ndtri(lower(total - misses, total, alpha))
    return heights


def audit(log: CertificationLog, sigma: float, claimed: float | None = None) -> Audit:
    """Find alpha, the draws and the scale of the counts from the largest radii.

    Args:
        log: of certificates.
        sigma: of the noise.
        claimed: the alpha that is said to have been used; another one is a problem.
    """
    found = np.unique(log.radius[log.radius > 0])[::-1] / sigma
    if not len(found):
        return Audit(None, None, 1, 0.0, ("nothing is certified",))
    top = float(np.mean(log.radius / sigma >= found[0] * (1 - 1e-9)))
    unit = 10.0 ** np.maximum(np.floor(np.log10(found[:RUNGS] * sigma)) + 1 - log.digits, -log.decimals) / sigma
    fits = sorted(_fits(found[:RUNGS], unit, log.decimals == WRITTEN <= log.digits + 1))
    if fits and fits[0][0] == -1 and np.sum(log.radius / sigma >= found[0] * (1 - 1e-9)) < 2:
        return Audit(None, None, 1, top, ())  # a single large radius lies on many ladders
    problems = []
    alpha, draws, scale = (None, None, 1) if not fits else fits[0][3:]
    if not fits:
        problems.append("its largest radii belong to no known alpha and number of draws")
    elif scale > 1:
        problems.append(f"its counts are those of {draws} draws times {scale}: the radii are no certificates")
    if claimed and alpha and not math.isclose(alpha, claimed):
        problems.append(f"it was made with alpha = {alpha:g}, not {claimed:g}")
    if top > CROWDED:
        problems.append(f"{top:.0%} of the images have the largest radius; more draws would tell them apart")
    return Audit(alpha, draws, scale, top, tuple(problems))


def _fits(found: Floats, unit: Floats, floored: bool) -> Iterator[tuple[int, bool, float, float, int, int]]:
    """Ladders that the largest radii lie on, the best first: most rungs met, honest before scaled, usual, nearest.

    unit: of the last digit. floored: radii may be rounded down, each in [r, r + unit), as well as to the nearest.
    """
    candidates = [(alpha, draws, 1) for alpha in ALPHAS for draws in DRAWS]
    candidates += [(a, draws, 100_000 // draws) for a in ALPHAS for draws in DRAWS if draws < 20_000]
    for alpha, draws, scale in candidates:
        heights = ladder(alpha, draws, scale, SKIPPED)
        for middle in (0.0, 0.5) if floored else (0.0,):
            apart = np.abs(found[:, None] + middle * unit[:, None] - heights)
            near = apart.min(1) <= 0.51 * unit  # no image need have missed exactly once
            near[0] &= apart[0, 0] <= 0.51 * unit[0]
            met = len(near) if near.all() else int(near.argmin())
            if met:
                rare = (alpha not in (0.001, 0.01)) + (draws not in (1000, 10_000, 100_000))
                yield -met, scale > 1, rare + float(apart[:met].min(1).sum()), alpha, draws, scale


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what each log holds and how it was made; 1 where one has a problem."""
    parser = argparse.ArgumentParser(prog="gauntlet audit", description="Audit public logs.")
    parser.add_argument("logs", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--sigma", type=float, default=math.nan, help="standard deviation of the noise")
    parser.add_argument("--alpha", type=float, help="that is said to have been used")
    parser.add_argument("--radii", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the certificates of one run folder instead")
    given = parser.parse_args(arguments)
    if given.write:
        return _written(given.logs, given.write)
    problems = 0
    for path in given.logs:
        try:
            if not 0 < given.sigma < math.inf:
                raise UserError(f"--sigma {given.sigma} must be a positive number: the noise of the logs")
            log = read(path)
        except UserError as cause:
            sys.stderr.write(f"error: {cause}\n")
            problems += 1
            continue
        audited = audit(log, given.sigma, given.alpha)
        problems += len(audited.problems)
        sys.stdout.write("\n".join(_lines(path, log, audited, given.radii)) + "\n")
    return 1 if problems else 0


def _written(folders: Sequence[Path], path: Path) -> int:
    try:
        if len(folders) > 1:
            raise UserError("--write takes one run folder")
        sys.stdout.write(f"{path}: {write(folders[0], path)} images\n")
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    return 0


def _lines(path: Path, log: CertificationLog, audited: Audit, radii: Sequence[float]) -> Iterator[str]:
    n = len(log.sample)
    low, high = mean_interval(np.where(log.correct, log.radius, 0.0))
    least, most = wilson(round(n * log.abstained), n)
    yield (
        f"{path}: {n} images, ACR {log.average:.3f} [{max(low, 0):.3f}, {high:.3f}], "
        f"abstained {log.abstained:.3f} [{least:.3f}, {most:.3f}]; 95 % intervals over images"
    )
    shares = [log.certified(radius) for radius in radii]
    yield "  radius  " + "".join(f"{radius:>8.3g}" for radius in radii)
    yield "  share   " + "".join(f"{share:>8.3f}" for share in shares)
    for end, word in enumerate(("from", "to")):
        yield f"  {word:<8}" + "".join(f"{wilson(round(n * share), n)[end]:>8.3f}" for share in shares)
    if audited.alpha is not None:
        yield f"  made with alpha = {audited.alpha:g} and N = {audited.draws:,}" + (
            f" x {audited.scale}" if audited.scale > 1 else ""
        )
    yield from (f"  problem: {problem}" for problem in audited.problems)

"""Runs that certify: what they claim, and whether any attack on the same model contradicts it.

A certificate that an attack breaks means a bug in one of the two, or a false claim. So every build looks for samples
that are certified at a radius and broken within it, over all runs of one model, and says so loudly.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gauntlet.errors import UserError, reason
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.leaderboard.run_metadata import AttackRun, DataKey
from gauntlet.leaderboard.sample_verdicts import Bools, Floats, Ints, locate
from gauntlet.leaderboard.verification_state import NO_VERDICTS, Fresh, Verification, read_verification
from gauntlet.metrics.bracket import of_survivors
from gauntlet.metrics.certificate_summary import CertificateSummary, grid, summary
from gauntlet.metrics.confidence import most, tail
from gauntlet.metrics.display import kind_words
from gauntlet.metrics.perturbation_size import reach

DOUBT = 1e-3
"""Probability with which honest certificates and honest attacks are called contradictory, per certificate run."""


@dataclass(frozen=True, eq=False)
class Claims:
    """The certificates of one run.

    Attributes:
        place, folder: its folder, relative to the runs folder and to be read.
        ids, radius: the samples that are predicted right, ordered, and their radii.
        problems: why the run does not count as whole.
    """

    place: str
    folder: RunFolder
    data: DataKey
    norm: str
    box: tuple[float, float]
    victim: str
    defense: str
    model: str
    certifier: str
    kind: str
    eps: float
    total: CertificateSummary
    ids: Ints
    radius: Floats
    origin: str  # who claims it, of the kind claimed
    problems: tuple[str, ...]
    survivors: bool  # of an attack alone: counted in brackets, not in tables
    verification: Verification

    @property
    def counts(self) -> bool:
        """Return whether its certificates are claims that hold."""
        return self.kind not in ("estimate", "claimed") and not self.problems

    @property
    def tabled(self) -> bool:
        """Return whether its shares are of the data set: those of an attack's survivors stand in brackets alone."""
        return self.counts and not self.survivors

    @property
    def curve(self) -> list[tuple[float, int, tuple[float, float]]]:
        """Return radius, samples certified at it, and its interval; a yes-or-no certifier has its one radius."""
        asked = grid(float(self.radius.max(initial=0.0)), self.norm) if self.total.graded else [0.0, self.eps]
        return [(radius, self.total.certified(radius), self.total.interval(radius)) for radius in asked]


@dataclass(frozen=True, order=True)
class Contradiction:
    """A sample that is certified at a radius and broken within it."""

    certificate: str
    attack: str
    stage: str
    sample: int
    radius: float
    distance: float


@dataclass(frozen=True)
class CertificateVerdict:
    """What attacks say of the certificates of one run. `allowed`: samples that may fall though all is right."""

    claims: Claims
    attacks: int
    allowed: int
    contradictions: tuple[Contradiction, ...]

    @property
    def samples(self) -> int:
        return len({each.sample for each in self.contradictions})

    @property
    def broken(self) -> bool:
        """Return whether more certificates fell than their confidence allows."""
        return self.samples > self.allowed


def certified(root: Path, fresh: Fresh = NO_VERDICTS, folders: Sequence[Path] = ()) -> tuple[list[Claims], list[str]]:
    """Return every certificate run below `root`, ordered by folder, and a line for each that cannot be read.

    folders: of these alone, which lie below `root`; empty: all.
    """
    found: list[Claims] = []
    damaged: list[str] = []
    for folder in find_runs(*(folders or [root])):
        place = folder.path.relative_to(root).as_posix()
        try:
            manifest: Any = folder.manifest()
            if manifest["kind"] == "certificate":
                verification = read_verification(folder, place, damaged, fresh)
                found.append(_read(folder, place, manifest, verification))
        except UserError as cause:
            if "certificate" in str(cause) or not folder.manifest_path.exists():
                damaged.append(str(cause))
        except (KeyError, TypeError, ValueError, AttributeError, OSError, pa.ArrowException) as cause:
            damaged.append(f"{place}: its certificates cannot be used ({reason(cause)})")
    return _on_the_same_samples(found), damaged


def _on_the_same_samples(found: Sequence[Claims]) -> list[Claims]:
    """Return the claims, with a problem where a run holds other samples, by their ids, than the first whole one of its
    table.
    """
    first: dict[tuple[DataKey, str], Claims] = {}
    compared = []
    for each in found:
        table = each.data, each.norm
        if each.counts and not np.array_equal(first.setdefault(table, each).total.ids, each.total.ids):
            other = f"it holds other samples than {first[table].place}"
            each = replace(each, problems=(*each.problems, other))
        compared.append(each)
    return compared


def _read(folder: RunFolder, place: str, manifest: Any, verification: Verification) -> Claims:
    data, threat, name = manifest["dataset"], manifest["threat"], manifest["name"]
    total = summary(folder)
    problems = [] if manifest["status"] == "done" else [f"its status is {manifest['status']}"]
    if manifest["status"] == "running":
        problems = [f"it is {'running' if folder.at_work() else 'interrupted'}"]
    distinct, promised = len(np.unique(total.ids)), int(data["samples"])
    if distinct < total.samples:
        problems.append(f"{total.samples - distinct} rows are repeated")
    if distinct < promised:
        problems.append(f"{promised - distinct} samples lack records")
    if distinct > promised:
        problems.append("it holds more samples than it declares")
    if total.kinds - {str(manifest["certificate"]["kind"])}:
        problems.append("its rows and its manifest do not agree on their kind")
    if verification.state == "failed":
        problems.append(f"its verification found {verification.failed} problems")
    right = total.radius >= 0
    return Claims(
        place=place,
        folder=folder,
        data=DataKey(str(data["name"]), str(data["digest"]), str(data["selection"])),
        norm=kind_words(threat),
        box=(float(threat["low"]), float(threat["high"])),
        victim=str(manifest["victim"]),
        defense=str(name["defense"]),
        model=str(name.get("model") or ""),
        certifier=_certifier(manifest),
        kind=str(manifest["certificate"]["kind"]),
        eps=math.inf if threat["radius"] is None else float(threat["radius"]),
        total=total,
        ids=total.ids[right],
        radius=total.radius[right],
        origin=str(manifest["certificate"].get("origin", "")),
        problems=tuple(problems),
        survivors=of_survivors(manifest),
        verification=verification,
    )


def _certifier(manifest: Any) -> str:
    """Return the name of a certifier, of attributions with what is asked of them, since that is no part of a threat."""
    name, node = str(manifest["name"]["certifier"]), manifest["config"].get("certifier", {})
    return f"{name}, cosine {float(node['cosine']):g}" if manifest["threat"]["norm"] == "attribution" else name


def verdicts(claims: Sequence[Claims], runs: Iterable[AttackRun]) -> list[CertificateVerdict]:
    """Hold every certificate against every attack run on the same model and images in the same norm."""
    pool: dict[tuple[object, ...], list[AttackRun]] = defaultdict(list)
    for run in runs:
        victim = str(run.manifest.get("bare", run.victim))
        pool[run.data.name, run.data.digest, run.threat.norm, run.threat.low, run.threat.high, victim].append(run)
    return [
        _verdict(each, pool[each.data.name, each.data.digest, each.norm, *each.box, each.victim]) for each in claims
    ]


def _verdict(claims: Claims, runs: Sequence[AttackRun]) -> CertificateVerdict:
    positive = int((claims.radius > 0).sum())
    if claims.kind == "estimate":
        return CertificateVerdict(claims, 0, positive, ())
    able = [run for run in runs if run.rule != "fixed"]  # a frozen draw is another classifier than the certified one
    found = sorted(each for run in able for each in contradictions(claims, run))
    doubt = 0.0 if claims.kind == "claimed" else 1 - claims.total.confidence
    return CertificateVerdict(claims, len(able), most(positive, doubt, DOUBT), tuple(found))


def contradictions(claims: Claims, run: AttackRun) -> Iterable[Contradiction]:
    """Return the adversarial examples of a run that lie within a certified radius. Parts that cannot be read are
    reported elsewhere.
    """
    for chunk in sorted(run.folder.present()):
        try:
            table = run.folder.read_part(chunk)
        except UserError:
            continue
        sample, distance = table["sample"].to_numpy(), table["distance"].to_numpy()
        place, there = locate(sample, claims.ids)
        radius = np.where(there, claims.radius[place] if len(claims.ids) else 0.0, 0.0)
        # A proof holds for all that a threat calls legal; else an example on its rim would contradict nothing.
        rim = reach(radius) if claims.kind in ("sound_det", "claimed") else radius * (1 + 1e-9)
        within = there & (radius > 0) & (distance <= rim)
        fallen = (
            within & _fooled(table, run, len(claims.ids)) & pc.is_null(table["error"]).to_numpy(zero_copy_only=False)
        )
        for row in np.flatnonzero(fallen):
            stage = table["stage"][int(row)].as_py()
            yield Contradiction(
                claims.place, run.place, stage, int(sample[row]), float(radius[row]), float(distance[row])
            )


def _fooled(table: pa.Table, run: AttackRun, claims: int) -> Bools:
    """Return which rows show that the model is wrong on their candidate.

    Of a randomized model: that more than half of its draws are, beyond what random draws would give on any of the
    samples.
    """
    if not run.randomized:
        broken: Bools = table["broken"].to_numpy(zero_copy_only=False)
        return broken
    if "wrong_share" not in table.column_names:
        return np.zeros(len(table), bool)
    hits = np.round(table["wrong_share"].fill_null(0.0).to_numpy() * run.draws)
    sure: Bools = tail(hits, run.draws, 0.5) <= DOUBT / max(1, claims)
    return sure

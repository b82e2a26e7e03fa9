"""What an evaluation or a certification in Python returns: numbers, examples and evidence, read from the records."""

import html
import math
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.api.inputs import InputError
from gauntlet.api.notebook import SHOWN, pictures_html, table_html
from gauntlet.commands.attack_report import lines
from gauntlet.commands.certification_report import certificate_lines
from gauntlet.data.dataset import Split
from gauntlet.data.given import FOLDER, store
from gauntlet.data.in_memory import Arrays
from gauntlet.data.stream_rows import StreamRows
from gauntlet.evidence.manifest import FlagRecord, Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.jobs.attack_job import Outcome
from gauntlet.jobs.certification_job import Certified
from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.metrics.certificate_summary import CertificateSummary
from gauntlet.metrics.display import class_name, ratio


class RunsFolder:
    """A folder of runs; a temporary one is removed when nobody holds this object any more."""

    def __init__(self, folder: str | PathLike[str] | None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="gauntlet-") if folder is None else folder)
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self.path, True)


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run on disk and what was in memory beside it.

    Attributes:
        folder: of the run.
        manifest: what `run.json` says.
    """

    folder: Path
    manifest: Manifest
    _split: Split
    _images: Arrays | StreamRows | None
    _folder: RunsFolder

    @property
    def run(self) -> RunFolder:
        """The folder as its reader sees it."""
        return RunFolder(self.folder)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every record: one row for each image and stage (of a certification, for each image)."""
        tables: list[pd.DataFrame] = [table.to_pandas() for table in self.run.read_parts()]
        return pd.concat(tables, ignore_index=True)

    @property
    def flags(self) -> list[FlagRecord]:
        """Red flags: signs that the number says more about the evaluation than about the model."""
        return self.manifest.get("flags", [])

    def save(self, runs: str | Path) -> Path:
        """Copy the evidence, and the images that it is about, into a folder of runs; return where the run is there.

        Raises:
            InputError: that run is there already.
        """
        place = Path(runs) / self.folder.relative_to(self._folder.path)
        if place.resolve() != self.folder.resolve():
            if place.exists():
                raise InputError(f"{place} is there already, the same run; move it away or choose another folder")
            shutil.copytree(self.folder, place, ignore=shutil.ignore_patterns("*.lock", "*.owner"))
        if self._images is not None:
            store(self._images, Path(runs) / FOLDER)
        return place

    def table(self) -> str:
        """Return the report, as the command line prints it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult(Run):
    """What an evaluation measured. Shares are in [0, 1].

    Attributes:
        summary: every count.
    """

    summary: AttackSummary
    _report: str

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        runs: RunsFolder,
        split: Split,
        images: Arrays | StreamRows | None,
    ) -> "EvaluationResult":
        """Return the result of a job. runs: the folder of runs; split: the images under attack."""
        report = "\n".join(lines(outcome)).strip("\n")
        return cls(outcome.run.path, outcome.manifest, split, images, runs, outcome.summary, report)

    @property
    def clean(self) -> float:
        """Accuracy without an attack; of a randomized defense the expected one."""
        expected = self.summary.expected_clean
        return expected.mean if expected else ratio(self.summary.clean, self.summary.samples)

    @property
    def robust(self) -> float:
        """Accuracy under attack, to quote; an upper bound where samples ended with errors; NaN where nothing is known
        or eps is unbounded."""
        total = self.summary
        if total.unknown or self.manifest["threat"]["radius"] is None:
            return math.nan
        return total.expected.mean if total.expected else ratio(total.robust + total.open, total.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `robust`: how far it may be off because only so many images were drawn."""
        total = self.summary
        if math.isnan(self.robust):
            return math.nan, math.nan
        if total.expected:
            return total.expected.interval
        return (total.interval[0], 1.0) if total.open else total.interval

    @property
    def errors(self) -> dict[str, int]:
        """Distinct error texts with their counts; an evaluation with errors is not ranked."""
        return self.summary.errors

    @property
    def attack_names(self) -> list[str]:
        """The stages that ran, `<attack>/<head>`, in their order."""
        return self.manifest["stages"][1:]

    @cached_property
    def x_adv(self) -> Tensor:
        """For each image, in the order of x, the example that broke it; where nothing did, the image itself.

        Of a randomized defense the example that most draws got wrong. float32 [n, C, H, W].
        """
        x = self._split.read(slice(0, len(self._split))).x
        place = {int(sample): at for at, sample in enumerate(self._split.ids)}
        worst: dict[int, tuple[float, float]] = {}
        for chunk in sorted(self.run.present()):
            try:
                arrays, stages = self.run.read_staged_examples(chunk)
            except FileNotFoundError:
                continue
            table = self.run.read_part(chunk).to_pandas().set_index(["sample", "stage"])
            for number, (sample, stage) in enumerate(zip(arrays["sample"], arrays["stage"], strict=True)):
                row = table.loc[(int(sample), stages[int(stage)])]
                wrong = float(row.get("wrong_share", 1.0))
                order = wrong, -float(row["distance"])  # the nearest of those that most draws got wrong
                if bool(row["broken"]) and order > worst.get(int(sample), (0.0, 0.0)):
                    worst[int(sample)] = order
                    x[place[int(sample)]] = torch.from_numpy(arrays["z"][number].copy())
        return x

    @property
    def broken(self) -> Tensor:
        """Whether each image, in the order of x, is wrong as it is or was broken, bool [n]."""
        return self._by_sample(self.frame["broken"])

    @property
    def clean_wrong(self) -> Tensor:
        """Whether each image is wrong as it is, bool [n]."""
        return self._by_sample(self.frame["broken"] & (self.frame["stage"] == CLEAN_STAGE))

    def table(self) -> str:
        """Return the report, as the command line prints it."""
        return self._report

    def _repr_html_(self) -> str:
        """Return the report with the stages as a table, and the first broken images as pictures."""
        above = [line for line in self._report.split("\n\n")[0].split("\n") if line]
        stages = [
            (stage, f"{cost['attacked']:,}", f"{self.summary.survivors[stage]:,}", f"{cost['seconds']:.1f}")
            for stage, cost in self.summary.cost.items()
        ]
        flags = [(flag["name"], flag["detail"]) for flag in self.flags]
        return (
            f"<pre>{html.escape(chr(10).join(above))}</pre>"
            + table_html("", ("stage", "attacked", "survivors", "seconds"), stages)
            + (table_html("red flags", ("flag", "what was seen"), flags) if flags else "")
            + pictures_html(self._pictures())
        )

    def _pictures(self) -> list[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
        """Return the first broken images whose adversarial examples are stored, with what became of them."""
        found = []
        adversarial = self.frame[self.frame["broken"] & (self.frame["stage"] != CLEAN_STAGE)]
        known: dict[Any, Any] = {(row.sample, row.stage): row for row in adversarial.itertuples()}
        names = self.manifest["dataset"].get("class_names", [])
        for chunk in sorted(self.run.present()):
            try:
                arrays, stages = self.run.read_staged_examples(chunk)
            except FileNotFoundError:
                continue
            for at in range(len(arrays["sample"])):
                row = known.pop((int(arrays["sample"][at]), stages[int(arrays["stage"][at])]), None)
                if row is None:
                    continue
                before, after = (class_name(int(each), names) for each in (row.label, row.pred))
                words = f"{before} → {after}, {row.stage}, distance {row.distance:.4g}"
                found.append((words, arrays["x"][at], arrays["z"][at]))
                if len(found) == SHOWN:
                    return found
        return found

    def _by_sample(self, mask: Any) -> Tensor:
        each = mask.groupby(self.frame["sample"]).any().reindex(self._split.ids, fill_value=False)
        return torch.from_numpy(each.to_numpy(bool).copy())


@dataclass(frozen=True, eq=False, repr=False)
class CertificationResult(Run):
    """What a certification proved. Shares are in [0, 1].

    Attributes:
        summary: every count.
    """

    summary: CertificateSummary
    _report: str

    @classmethod
    def of(
        cls,
        outcome: Certified,
        runs: RunsFolder,
        split: Split,
        images: Arrays | StreamRows | None,
    ) -> "CertificationResult":
        """Return the result of a job; arguments as for `EvaluationResult.of`."""
        report = "\n".join(certificate_lines(outcome)).strip("\n")
        return cls(outcome.run.path, outcome.manifest, split, images, runs, outcome.summary, report)

    @property
    def clean(self) -> float:
        """Share of the images that the certified classifier gets right."""
        return ratio(self.summary.correct, self.summary.samples)

    def certified(self, radius: float) -> float:
        """Return the share of the images that are right and certified at a radius."""
        return ratio(self.summary.certified(radius), self.summary.samples)

    def interval(self, radius: float) -> tuple[float, float]:
        """Return the 95 % interval of `certified`: how far it may be off because only so many images were drawn."""
        return self.summary.interval(radius)

    @property
    def radius(self) -> Tensor:
        """The certified radius of each image, in the order of x, float64 [n]; -1 where it is wrong or abstained."""
        place = {int(sample): at for at, sample in enumerate(self.summary.ids)}
        at = [place[int(sample)] for sample in self._split.ids]
        return torch.from_numpy(self.summary.radius[at].copy())

    @property
    def errors(self) -> dict[str, int]:
        """Distinct error texts with their counts."""
        return self.summary.errors

    def table(self) -> str:
        """Return the report, as the command line prints it."""
        return self._report

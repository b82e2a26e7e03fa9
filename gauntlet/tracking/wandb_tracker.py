"""Runs in Weights & Biases, offline unless the user asks.

An evaluation is shown once its evidence is on disk, because W&B keeps its own file in memory for a while and loses that
when the process is killed. The numbers of a training are in its history.json as well.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gauntlet.errors import reason
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.published import published
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.metrics.display import class_name
from gauntlet.tracking import wandb_summary
from gauntlet.tracking.example_images import Example, examples
from gauntlet.tracking.sweep_name import sweep
from gauntlet.tracking.wandb_connection import WandbRun, opened, wandb

PICTURES = ("clean", "adversarial", "difference")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wandb(Knobs, key="logger"):
    """One W&B run per evaluation, with the hash of the evaluation as its id, and one per training.

    Args:
        dir: folder for W&B's files.
        project, entity: where the run belongs; entity null: the user's default.
        group: of the run; null: the sweep that it is part of.
        mode: "offline"; "online"; "auto": online where the environment has WANDB_MODE=online, else offline. A run that
            cannot be online is kept offline.
        images: largest number of adversarial examples to show, >= 0.

    Raises:
        UserError: unknown mode, or a negative number of images.
    """

    dir: str
    project: str = "gauntlet"
    entity: str | None = None
    group: str | None = None
    mode: str = choice("auto", ("auto", "offline", "online"))
    images: int = knob(16, least=0)

    def evaluation(self, run: RunFolder, manifest: Manifest, total: AttackSummary) -> None:
        """Show an evaluation: configuration, summary, stages, pictures, and its records as an artifact."""
        key, failed = manifest["config_hash"], manifest["status"] != "done"
        try:
            shown = examples(run, manifest["stages"], self.images)
            with self._opened(
                key, wandb_summary.title(manifest), "attack", wandb_summary.config(manifest), failed
            ) as tracked:
                tracked.log(_tables(total, shown, manifest["dataset"].get("class_names", [])))
                tracked.summary.update(wandb_summary.summary(manifest, total))
                tracked.log_artifact(_artifact(run, key))
        except Exception as cause:
            log.warning("W&B lacks this run, whose evidence is complete: %s", reason(cause))

    @contextmanager
    def training(self, name: str, key: str, config: Mapping[str, Any]) -> Iterator["_History"]:
        """Open a log of a training; the first failure ends the log with a warning."""
        history, stack = _History(), ExitStack()
        with history.guard():
            history.run = stack.enter_context(self._opened(key[:12], name, "train", config))
        try:
            yield history
        finally:
            with history.guard():
                stack.__exit__(*sys.exc_info())

    @contextmanager
    def _opened(
        self, key: str, name: str, kind: str, config: Mapping[str, Any], failed: bool = False
    ) -> Iterator[WandbRun]:
        online = self.mode == "online" or (self.mode == "auto" and os.environ.get("WANDB_MODE") == "online")
        options = {"project": self.project, "entity": self.entity, "group": self.group or sweep()}
        folder = Path(self.dir).absolute()

        def missed(cause: Exception) -> None:
            log.warning("W&B keeps this run offline in %s: %s", folder, reason(cause))

        with opened(
            folder, online=online, failed=failed, missed=missed,
            id=key, name=name, job_type=kind, config=dict(config), **options,
        ) as run:  # fmt: skip
            yield run


@dataclass
class _History:
    """The log of one training."""

    run: WandbRun | None = None
    warned: bool = False

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Pass on the numbers of one epoch."""
        if self.run is not None:
            with self.guard():
                self.run.log(dict(values), step=step)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turn a failure into one warning and the end of this log."""
        try:
            yield
        except Exception as cause:
            self.run = None
            if not self.warned:
                log.warning("W&B lacks the rest of this training, which goes on: %s", reason(cause))
            self.warned = True


def _tables(total: AttackSummary, shown: list[Example], names: Sequence[str]) -> dict[str, Any]:
    stages = [list(row) for row in wandb_summary.stages(total)]
    tables = {"stages": wandb().Table(columns=list(wandb_summary.STAGE_COLUMNS), data=stages)}
    if shown:
        rows = [asdict(example) for example in shown]
        for row in rows if names else ():
            row |= {f"{key}_name": class_name(row[key], names) for key in ("label", "clean_pred", "pred")}
        data = [[wandb().Image(value) if name in PICTURES else value for name, value in row.items()] for row in rows]
        tables["examples"] = wandb().Table(columns=list(rows[0]), data=data)
    return tables


def _artifact(run: RunFolder, key: str) -> object:
    artifact = wandb().Artifact(f"records-{key}", type="records")
    with artifact.new_file("run.json") as file:
        json.dump(published(run.manifest()), file, indent=1)
    for chunk in sorted(run.present()):
        path = run.part_path(chunk).absolute()
        artifact.add_file(str(path), name=f"records/{path.name}", policy="immutable")  # sent from its place, not copied
    return artifact

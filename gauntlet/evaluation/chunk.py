"""The one loop that attacks and judges a chunk of samples. Nothing here prints, reads or writes files.

The clean prediction, then every stage on the samples that it covers; for each candidate its membership in the threat
and a fresh float32 prediction of the deployed pipeline, then a row.
"""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gauntlet.data.dataset import Batch
from gauntlet.data.validation import check_images, check_scores
from gauntlet.errors import UserError, described, reason
from gauntlet.evaluation.evaluation import Evaluation, Stage
from gauntlet.evaluation.full_passes import CRASHES, FullPasses, stands_still
from gauntlet.evaluation.judge import Judge, Judged
from gauntlet.evaluation.targets import targets_of
from gauntlet.evidence.schema import CLEAN_STAGE, PARAMETERS, rows
from gauntlet.threat_model.access import level_of, narrowed
from gauntlet.threat_model.attack import compares
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.passes import Passes
from gauntlet.threat_model.rng import Rng

log = logging.getLogger(__name__)

MOST_BYTES = 2**30
"""Images of the calls of an attack that run side by side; what they hold on the device is a few times as much."""


@dataclass
class Chunk:
    """What one chunk of samples left behind.

    Attributes:
        rows: table of `records.ATTACK_SCHEMA`.
        adversarial: sample int64 [m], stage uint16 [m], x and z float32 [m, C, H, W] of the broken samples, or of
            every candidate that was judged.
        seconds: per stage.
    """

    rows: pa.Table
    adversarial: dict[str, np.ndarray]
    seconds: dict[str, float]


Advance = Callable[[str, int, int], None]
"""Called with a stage, a number of samples that are done, at first 0, and how many the stage attacks in this chunk."""


def evaluate_chunk(run: Evaluation, batch: Batch, advance: Advance = lambda stage, count, due: None) -> Chunk:
    """Evaluate the samples of one chunk.

    Args:
        advance: called as work is done.

    Raises:
        UserError: pixels outside the box, labels outside the classes, scores of the wrong shape or not finite.
    """
    order = batch.ids.argsort()
    ids, x, y = (t[order] for t in batch)
    check_images(ids, x, y, run.classes, (run.threat.low, run.threat.high))
    chunk = ChunkEvaluator(run, ids, x, y)
    with timed(chunk.seconds, CLEAN_STAGE):
        chunk.clean()
    advance(CLEAN_STAGE, len(ids), len(ids))
    for stage in run.stages:
        with timed(chunk.seconds, stage.name):
            due = chunk.due()
            advance(stage.name, 0, len(due))
            size = max(len(due), 1) if compares(stage.attack) else run.batch_size
            with closing(chunk.crafted(stage, due.split(size))) as calls:  # type: ignore[no-untyped-call]
                for crafted in calls:
                    chunk.judged(stage, crafted)
                    advance(stage.name, len(crafted.positions), len(due))
    return chunk.close()


@dataclass(frozen=True)
class Crafted:
    """One call of an attack.

    Attributes:
        positions: of its samples in the chunk.
        counts: its passes.
        candidates: returns them, whether each is legal, and its distance; raises what the attack raised.
    """

    positions: Tensor
    counts: Counts
    candidates: Callable[[], tuple[Tensor, Tensor, Tensor]]


class ChunkEvaluator:
    """The rows of one chunk while it is being evaluated. All tensors of samples are on the host."""

    def __init__(self, run: Evaluation, ids: Tensor, x: Tensor, y: Tensor) -> None:
        self.run, self.judge, self.ids, self.x, self.y = run, Judge(run), ids, x, y
        self.clean_pred = torch.full_like(y, -1)
        self.right = torch.zeros(len(ids), dtype=torch.bool)  # when clean, and accepted where the defense may reject
        self.down = torch.zeros(len(ids), dtype=torch.bool)  # broken, or in error
        self.target: Tensor | None = None  # of a targeted attack: the class that each sample is to become
        self.tables: list[pa.Table] = []
        self.kept: list[tuple[Tensor, int, Tensor]] = []  # positions, stage index, candidates
        self.seconds: dict[str, float] = {}

    def due(self) -> Tensor:
        """Return the positions of the samples that the next stage attacks."""
        everyone = torch.ones_like(self.right)
        mask = {"standing": ~self.down, "correct": self.right, "all": everyone}[self.run.coverage]
        return mask.nonzero().squeeze(1)

    def clean(self) -> None:
        try:
            judged = self.judge.verdict(self.x, self.ids, self.y, clean=True)
        except UserError:
            raise
        except Exception as cause:
            log.debug("prediction of clean images", exc_info=True)
            shape = list(self.x.shape[1:])
            raise UserError(f"the defense cannot predict clean images of {shape}: {reason(cause)}") from cause
        check_scores(judged.scores, self.ids, self.run.classes)
        if not judged.finite.all():
            bad = self.ids[~judged.finite].tolist()
            raise UserError(f"the defense's acceptance of the clean image {bad[0]} is not finite; fix its detector")
        self.clean_pred = judged.pred
        self.right = (self.clean_pred == self.y) & judged.accepted
        self.down = ~self.right
        if self.run.threat.targeted:
            self.target = targets_of(self.run, judged.scores, self.x, self.ids, self.y)
        zeros = torch.zeros(len(self.ids))
        self._enter(CLEAN_STAGE, torch.arange(len(self.ids)), self.down, zeros, judged)

    def crafted(self, stage: Stage, pieces: Sequence[Tensor]) -> Generator["Crafted", None, None]:
        """Attack the samples at the positions of each piece, one call for each; yield the calls in their order.

        To be closed where it is left early: calls that stand still would wait forever.
        """
        counts = [Counts.of(self.ids[positions].to(self.run.device)) for positions in pieces]
        if len(pieces) < 2 or not (self.run.full_passes and stands_still(stage.attack)):
            for positions, own in zip(pieces, counts, strict=True):
                yield Crafted(positions, own, partial(self._candidates, stage, positions, own))
            return
        size = self.run.batch_size
        passes = FullPasses(self.run.forwards, size, max(4, MOST_BYTES // (size * self.x[0].nbytes)))
        calls = [
            partial(self._candidates, stage, positions, own, passes)
            for positions, own in zip(pieces, counts, strict=True)
        ]
        with closing(passes.side_by_side(calls)) as tasks:
            for positions, own, task in zip(pieces, counts, tasks, strict=True):
                yield Crafted(positions, own, task.result)

    def judged(self, stage: Stage, crafted: "Crafted") -> None:
        """Judge every candidate of a call."""
        positions, counts = crafted.positions, crafted.counts
        try:
            found, legal, distance = crafted.candidates()
            z = self.run.threat.realized(found, self.x[positions])
            judged = self.judge.verdict(z, self.ids[positions], self.y[positions], self._targets(positions))
        except UserError:
            raise
        except CRASHES as cause:  # a crash is a record: it must neither pass as robust nor stop the sweep
            log.exception("%s failed on %d samples", stage.name, len(positions))
            self._fail(stage.name, positions, described(cause))
            return
        if not legal.all():
            worst = distance[~legal].nan_to_num(torch.inf).max().item()
            self._fail(stage.name, positions[~legal], f"candidate outside the threat, at distance {worst:.6g}")
        finite = judged.finite
        if not finite[legal].all():
            self._fail(stage.name, positions[legal & ~finite], "scores of the candidate are not finite")
        fit = legal & finite
        positions, z, distance, judged = positions[fit], z[fit], distance[fit], judged.select(fit)
        parameters = found[fit] if self.run.threat.parametric else None
        if not len(positions):
            return
        broken = judged.broken(self.y[positions])
        self.down[positions] |= broken
        self._enter(stage.name, positions, broken, distance, judged, counts, parameters=parameters)
        kept = torch.ones_like(broken) if self.run.every else broken
        if kept.any():
            index = [s.name for s in self.run.stages].index(stage.name)
            self.kept.append((positions[kept], index, z[kept]))

    def _candidates(
        self, stage: Stage, positions: Tensor, counts: Counts, passes: Passes | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the attack found, on the host, whether it is legal, and its distance; the attack gets copies."""
        run, device = self.run, self.run.device
        x, y = self.x[positions].to(device), self.y[positions].to(device)
        labels = self.y[positions].to(device)
        target = self._targets(positions)
        target = None if target is None else target.to(device)
        head = narrowed(run.counted_head(stage, counts, labels, target, passes), level_of(stage.attack))
        z = stage.attack(head, x, y, threat=run.threat, rng=Rng(run.seed, counts.ids.clone(), stage.name))
        z = z.detach().to("cpu", copy=True)  # what is judged is out of its reach
        return z, *self.judge.membership(z, self.x[positions])

    def _targets(self, positions: Tensor) -> Tensor | None:
        return None if self.target is None else self.target[positions]

    def close(self) -> Chunk:
        blank = self.x[:0]
        at = torch.cat([positions for positions, _, _ in self.kept] or [torch.zeros(0, dtype=torch.long)])
        stage = [np.full(len(positions), index, np.uint16) for positions, index, _ in self.kept]
        adversarial = {
            "sample": self.ids[at].numpy(),
            "stage": np.concatenate([*stage, np.zeros(0, np.uint16)]),
            "x": self.x[at].float().numpy(),
            "z": torch.cat([z for _, _, z in self.kept] or [blank]).float().numpy(),
        }
        return Chunk(pa.concat_tables(self.tables, promote_options="default"), adversarial, self.seconds)

    def _fail(self, stage: str, positions: Tensor, why: str) -> None:
        self.down[positions] = True  # its fate is unknown: later stages would not fix that
        zeros = torch.zeros(len(positions))
        self._enter(stage, positions, zeros.bool(), zeros, None, None, why)

    def _enter(
        self,
        stage: str,
        at: Tensor,
        broken: Tensor,
        distance: Tensor,
        judged: Judged | None,
        counts: Counts | None = None,
        error: str | None = None,
        parameters: Tensor | None = None,
    ) -> None:
        label = self.y[at]
        zeros = np.zeros(len(at), np.int64)
        margin = zeros.astype(np.float32) if judged is None else judged.margins(label).numpy()
        passes, reached = [zeros] * 4, []
        if counts is not None:
            mine = torch.searchsorted(counts.ids.cpu(), self.ids[at])
            columns = (counts.forwards, counts.backwards, counts.zero_gradients, counts.bad_gradients)
            passes = [column.cpu()[mine].numpy() for column in columns]
            reached = counts.phase.cpu()[mine].tolist()
        values: dict[str, Any] = {
            "sample": self.ids[at].numpy(),
            "stage": [stage] * len(at),
            "label": label.numpy(),
            "clean_pred": self.clean_pred[at].numpy(),
            "pred": np.full(len(at), -1) if judged is None else judged.pred.numpy(),
            "broken": broken.numpy(),
            "distance": distance.double().numpy(),
            "margin": margin,
            "forwards": passes[0],
            "backwards": passes[1],
            "zero_gradients": passes[2],
            "bad_gradients": passes[3],
            "error": [error] * len(at),
        }
        if counts is not None and counts.phases:
            values["phase"] = [counts.phases[i] if i >= 0 else None for i in reached]
        if self.run.rule is not None:
            shares = (None, None) if judged is None else (judged.wrong, judged.fresh)
            for name, share in zip(("wrong_share", "fresh_share"), shares, strict=True):
                values[name] = [None] * len(at) if share is None else share.numpy()
        if self.run.exact:
            values["fooled"] = [None] * len(at) if judged is None or judged.fooled is None else judged.fooled.numpy()
        if self.run.victim.accepts is not None:
            said = None if judged is None else judged.acceptance
            values["acceptance"] = [None] * len(at) if said is None else said.numpy()
        if self.target is not None:
            values["target"] = self.target[at].numpy()
        if self.run.threat.parametric:
            values[PARAMETERS.name] = [None] * len(at) if parameters is None else parameters.double().tolist()
        self.tables.append(rows(values))


class timed:
    """Adds the seconds of a block to an entry."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.begun

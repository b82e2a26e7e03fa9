"""Whether the rows of a chunk can be what an evaluation wrote: whole, each once, and of one story. Imports no torch."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gauntlet.evidence.manifest import ThreatFacts
from gauntlet.evidence.schema import ACCEPTANCE, CLEAN_STAGE, TARGET
from gauntlet.verification.patch_distance import patch_distance

Key = tuple[int, str]
"""(sample, stage)"""


def row_problems(
    table: pd.DataFrame, ids: Sequence[int], stages: Sequence[str], reach: float, coverage: str = "standing"
) -> Iterator[str]:
    """One line for each thing wrong with the rows of a chunk.

    Every sample of the chunk has one clean row. One that is right as it is has one row in each stage until a stage
    breaks it or ends in an error, and none after; or one in each stage, where the coverage is "correct". One that is
    wrong as it is has no other row, unless the coverage is "all".

    Args:
        table: columns of `records.ATTACK_SCHEMA`.
        ids: the samples that belong to the chunk.
        stages: in the order in which they run, "clean" first.
        reach: the largest distance that is inside the threat.
        coverage: which samples a stage attacks: standing, correct or all.
    """
    seen: dict[int, dict[str, Any]] = {int(sample): {} for sample in ids}
    for row in entries(table):
        who, mine = f"sample {row.sample} ({row.stage})", seen.get(int(row.sample))
        if mine is None:
            yield f"{who}: the sample does not belong to this chunk"
        elif row.stage not in stages:
            yield f"{who}: the run has no such stage"
        elif row.stage in mine:
            yield f"{who}: the row is there twice"
        else:
            mine[row.stage] = row
        if not (np.isfinite(row.distance) and np.isfinite(row.margin)):
            yield f"{who}: distance or margin is NaN or infinite"
        elif pd.isna(row.error) and not np.isfinite(getattr(row, ACCEPTANCE.name, 0.0)):
            yield f"{who}: the acceptance is NaN, infinite or missing"
        elif not 0 <= row.distance <= reach:
            yield f"{who}: the recorded distance {row.distance:.8g} is outside the threat"
    for sample, rows in seen.items():
        yield from (f"sample {sample}{line}" for line in _story(rows, stages, coverage))


def _story(rows: dict[str, Any], stages: Sequence[str], coverage: str) -> Iterator[str]:
    clean = rows.get(CLEAN_STAGE)
    if clean is None:
        yield ": there is no clean row"
        return
    down, target = False, getattr(clean, TARGET.name, None)
    if target == clean.label:
        yield ": its target is its label"
    for stage in stages:
        row = rows.get(stage)
        if (row is None) != down:
            yield f" ({stage}): " + (
                "there is no row" if row is None else "it was broken before, or never right, but was attacked"
            )
        if row is None:
            continue
        failed = not pd.isna(row.error)
        if (row.label, row.clean_pred) != (clean.label, clean.clean_pred):
            yield f" ({stage}): label or clean prediction is not that of the clean row"
        if getattr(row, TARGET.name, None) != target:
            yield f" ({stage}): its target is not that of the clean row"
        if row.broken != (_counts(row) and not failed):
            yield (
                f" ({stage}): prediction {row.pred}, label {row.label}{_more_said(row)} and "
                f"broken={row.broken} contradict each other"
            )
        ends = coverage == "standing" or (coverage == "correct" and stage == CLEAN_STAGE)
        down = down or (ends and (bool(row.broken) or failed))


def _counts(row: Any) -> bool:
    """Return whether what the defense says of an image counts against it."""
    wrong, acceptance = bool(row.pred != row.label), getattr(row, ACCEPTANCE.name, 0.0)
    if row.stage == CLEAN_STAGE:
        return wrong or bool(acceptance < 0)
    if (target := getattr(row, TARGET.name, None)) is not None:
        return bool(row.pred == target)
    return wrong and bool(acceptance >= 0)


def _more_said(row: Any) -> str:
    found, target = getattr(row, ACCEPTANCE.name, None), getattr(row, TARGET.name, None)
    return ("" if found is None else f", acceptance {found:.4g}") + ("" if target is None else f", target {target}")


def order_problems(table: pd.DataFrame, stages: Sequence[str]) -> Iterator[str]:
    """Yield a line where the rows of a chunk do not stand stage by stage, in the order in which stages run."""
    place = {stage: number for number, stage in enumerate(stages)}
    found = [place[stage] for stage in table["stage"] if stage in place]
    if found != sorted(found):
        yield "its rows do not stand in the order in which the stages run"


def attempts(table: pd.DataFrame) -> dict[Key, Any]:
    """The rows of candidates that were judged."""
    tried = table[(table["stage"] != CLEAN_STAGE) & table["error"].isna()]
    return {(int(row.sample), str(row.stage)): row for row in entries(tried)}


def claims(table: pd.DataFrame) -> dict[Key, Any]:
    """The rows that say that an attack broke a sample."""
    return attempts(table[table["broken"]])


def entries(table: pd.DataFrame) -> Iterator[Any]:
    """The rows, one named tuple each."""
    yield from table.itertuples(index=False)


def stored_keys(stored: dict[str, NDArray[Any]], stages: Sequence[str], shape: tuple[int, ...]) -> list[Key]:
    """Whose each stored example is. shape: of one image.

    Raises:
        ValueError: in words, where the arrays are not those of adversarial examples.
    """
    lacking = [name for name in ("sample", "stage", "x", "z") if name not in stored]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    count = len(stored["sample"])
    for name in ("x", "z"):
        if stored[name].shape != (count, *shape) or stored[name].dtype != np.float32:
            raise ValueError(f"{name} is {stored[name].dtype} {list(stored[name].shape)}")
    if stored["stage"].shape != (count,) or (count and not 0 <= stored["stage"].max() < len(stages) - 1):
        raise ValueError("it names stages that the run does not have")
    return [(int(s), stages[1 + int(k)]) for s, k in zip(stored["sample"], stored["stage"], strict=True)]


def distance_of(z: NDArray[Any], x: NDArray[Any], threat: ThreatFacts) -> tuple[float, str]:
    """Distance in the norm of the threat, and what is illegal about z; z, x: [C, H, W]."""
    if not np.isfinite(z).all():
        return 0.0, "the example has NaN or infinite pixels"
    if z.min() < threat["low"] or z.max() > threat["high"]:
        return 0.0, f"pixels from {z.min():.6g} to {z.max():.6g}, outside the box"
    delta = np.abs(z.astype(np.float64) - x.astype(np.float64))
    norms: dict[str, Callable[[], Any]] = {
        "linf": lambda: delta.max(),
        "l2": lambda: np.sqrt((delta**2).sum()),
        "l1": lambda: delta.sum(),
        "l0": lambda: (delta > 0).any(axis=0).sum(),
        "patch": lambda: patch_distance(z, x, threat),
    }
    distance = float(norms[threat["norm"]]())
    if distance > reach_of(threat):
        return distance, f"distance {distance:.8g} exceeds eps {threat['radius']:.8g}"
    return distance, ""


def reach_of(threat: ThreatFacts) -> float:
    """The largest distance that counts as inside; infinite where the threat is unbounded."""
    if threat["radius"] is None:
        return math.inf
    return float(threat["radius"]) * (1 + 1e-6) + 1e-7

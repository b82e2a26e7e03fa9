"""What there is to show of an evaluation, as plain values."""

import math
from typing import Any

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.published import published
from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.metrics.display import ratio, threat_words

STAGE_COLUMNS = ("stage", "attacked", "survivors", "accuracy", "forwards", "backwards", "seconds")


def config(manifest: Manifest) -> dict[str, Any]:
    """Return the configuration, the names of its choices, and what the result depends on beside them."""
    evidence = (
        "command config_hash victim commit dirty versions device weights networks description card threat dataset"
    )
    found: dict[str, Any] = dict(published(manifest))
    found["dataset"] = {key: value for key, value in found["dataset"].items() if key != "class_names"}
    return {
        **found["config"],
        "name": manifest["name"],
        "evidence": {key: found[key] for key in evidence.split() if key in found},
    }


def summary(manifest: Manifest, total: AttackSummary) -> dict[str, Any]:
    """Return the accuracies in [0, 1] (NaN without a sample), the 95 % interval, the stages, red flags and errors."""
    low, high = (math.nan, math.nan) if total.unknown else total.interval
    return {
        "status": manifest["status"],
        "samples": total.samples,
        "clean": ratio(total.clean, total.samples),
        "robust": math.nan if total.unknown else ratio(total.robust, total.samples),
        "robust_low": low,
        "robust_high": high,
        "stage": {row[0]: dict(zip(STAGE_COLUMNS[1:], row[1:], strict=True)) for row in stages(total)},
        "flags": [f"{flag['name']}: {flag['detail']}" for flag in manifest.get("flags", [])],
        "failures": manifest.get("failures", []),
        "seconds": sum(cost["seconds"] for cost in total.cost.values()),
    }


def stages(total: AttackSummary) -> list[tuple[Any, ...]]:
    """Return a row of `STAGE_COLUMNS` per stage; forwards and backwards are per attacked sample."""
    return [
        (
            stage,
            cost["attacked"],
            total.survivors[stage],
            ratio(total.survivors[stage], total.samples),
            ratio(cost["forwards"], cost["attacked"]),
            ratio(cost["backwards"], cost["attacked"]),
            cost["seconds"],
        )
        for stage, cost in total.cost.items()
    ]


def title(manifest: Manifest) -> str:
    """Return the name of an evaluation for people."""
    name, threat = manifest["name"], manifest["threat"]
    return f"{name['defense']} {name['attack']} {name['dataset']} {threat_words(threat)}"

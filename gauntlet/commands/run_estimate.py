"""What a run would take on this machine, from a few passes of the composed model: `gauntlet run … --estimate`.

Passes come from the plan of each attack (`gauntlet.verification.pass_plans`), whose two ends are a run in which every
image falls at the first step and one in which none falls. Seconds for a pass are measured, and so is the whole attack
on a few images where that takes no longer than `BUDGET`. Nothing is written.
"""

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from gauntlet.commands.estimate_report import Estimate, StageCost, lines, seconds_of, some_images
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Batch, Split
from gauntlet.data.validation import data_set
from gauntlet.errors import NotTrained, UserError
from gauntlet.evaluation.certification import STAGE
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation, Stage
from gauntlet.evaluation.gradient_draws import settled
from gauntlet.evidence.example_storage import DiskEstimate, StoragePolicy, size
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.jobs import attack_setup, certification_job
from gauntlet.jobs.attack_job import draws_of
from gauntlet.jobs.attack_progress import prior
from gauntlet.jobs.setup import KEYS, Setup
from gauntlet.system.progress import duration
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.transfer.surrogates import owned
from gauntlet.verification.pass_plans import plan_of, queries_beside
from gauntlet.verification.rebuild import load_order

BUDGET = 3.0
"""Seconds that the attack on a few images may take."""

REPEATS = 2
"""Passes that are timed; the quickest counts."""


sweep: list[Estimate] = []
"""What was estimated in this process so far."""


def estimate_lines(composed: DictConfig, choices: dict[str, str], command: str) -> list[str]:
    """Return what a run would take, as lines, and from the second of a sweep on what all so far take together.

    Raises:
        UserError: what the run itself would be refused for.
    """
    certified = composed.get("certifier") is not None
    both = [("attack", False), ("certifier", True)] if composed.get("attack") is not None and certified else []
    out: list[str] = []
    for leave, of_certifier in both or [("", certified)]:
        node: Any = OmegaConf.create(OmegaConf.to_container(composed, resolve=False))
        if both:
            node["certifier" if leave == "attack" else "attack"] = None
        if waits := untrained(node):
            return ["", f"estimate: unknown, since the defense is trained first: {waits}"]
        found = _certification(node, choices, command) if of_certifier else _attack(node, choices, command)
        sweep.append(found)
        out += lines(found)
    if both:
        out.append("(the certifier sees the survivors alone: its upper end is that of none falling)")
    if len(sweep) > 1 + bool(both):
        low, high = (sum(each.seconds[end] for each in sweep) for end in (0, 1))
        least = "" if all(each.whole for each in sweep) else "beside what is unknown, "
        disk = sum(each.disk for each in sweep)
        ends = f"{least}{duration(low)} to {duration(high)}"
        out.append(f"all {len(sweep)} so far: {ends} one after the other, up to {size(disk)} on disk")
    return out


def untrained(composed: DictConfig) -> str:
    """Return what has to be trained before a run of this configuration; empty: nothing."""
    cfg = checked(owned(composed), KEYS)
    try:
        load_order(cfg.defense, data_set(build(cfg.dataset)), Path(cfg.runs_dir) / "_trained", "this run")
    except NotTrained as cause:
        return str(cause).partition(" (")[0]
    return ""


def _attack(composed: DictConfig, choices: dict[str, str], command: str) -> Estimate:
    job = attack_setup.prepare(composed, choices, command)
    split, manifest = job.split, job.manifest
    run = replace(job.evaluation, victim=settled(job.evaluation.victim, draws_of(job)))
    unknown = "its adversarial sets are crafted first" if job.crafters else ""
    unknown = unknown or ("it is fitted to training images first" if job.train is not None else "")
    batch = _images(split, min(run.batch_size, len(split)))
    forward = _seconds(lambda: _predict(run, batch)) / len(batch.ids)
    passing = {stage.head.name: forward if unknown else _pass(run, stage, batch, forward) for stage in run.stages}
    plans = {stage.name: None if unknown else plan_of(stage, run) for stage in run.stages}
    one = 0.0
    for stage in run.stages:
        plan = plans[stage.name]
        each = forward if plan and plan.column == "forwards" else passing[stage.head.name]
        one += each * (plan.most if plan else prior(stage.attack) * stage.head.draws)
    count = 0 if unknown or 2 * one > BUDGET else min(len(batch.ids), max(2, int(BUDGET / max(one, 1e-9))))
    rows, spent = _trial(run, split, count)
    images = len(split)
    costs = [StageCost(CLEAN_STAGE, (1, 1), (images * forward,) * 2, images * forward, "measured")]
    size_of = [min(manifest["chunk"], images - at) for at in range(0, images, manifest["chunk"])]
    for number, stage in enumerate(run.stages):
        mine = rows[rows["stage"] == stage.name] if count else rows
        plan = plans[stage.name]
        column = plan.column if plan else "backwards" if len(mine) and mine["backwards"].any() else "forwards"
        made = mine[column].astype(float) if len(mine) else pd.Series(dtype=float)
        each = forward if column == "forwards" else passing[stage.head.name]
        if plan is None and not len(made):
            late = "no image of the trial reached it" if count else f"one image takes about {duration(one)}"
            costs.append(StageCost(stage.name, None, None, None, unknown or f"no plan, and {late}"))
            continue
        low, high = (1.0, float(plan.most)) if plan else (float(made.min()), float(made.max()))
        low = 0.0 if number else low  # where all fall to the first stage, the others have nothing to do
        step = spent[stage.name] / max(1.0, float(made.max())) if len(made) else 0.0
        share = len(made) / count if count else 0.0
        tried = (
            seconds_of(size_of, share, run.batch_size, len(made), step, float(made.max()), float(made.mean()), each)
            if len(made)
            else 0.0
            if count
            else None
        )
        top = seconds_of(size_of, 1.0, run.batch_size, len(made), step, high, high, each)
        queries = queries_beside(stage.attack) if plan else 0  # few samples need them
        source = "plan" if plan else f"no plan: least and most of {some_images(count)} in a trial"
        source += "" if len(made) else "; its passes alone are timed"
        ends = min(top, images * each * low), top + images * forward * queries
        costs.append(StageCost(stage.name, (low, high + queries), ends, tried, source))
    policy = StoragePolicy.of(job.runtime.keep)
    disk = DiskEstimate.of(policy, manifest, range(manifest["chunks"]), split.read(slice(0, 1)).x.numel())
    return _estimate(job.setup, manifest, "attack", costs, disk.total, count)


def _certification(composed: DictConfig, choices: dict[str, str], command: str) -> Estimate:
    job = certification_job.prepare(composed, choices, command)
    split, images, spent, done = job.setup.split, len(job.setup.split), 0.0, 0
    seconds: list[float] = []
    passes: list[int] = []
    while done < images and spent < BUDGET:  # one image, then as many more as there is time for
        batch = _images(split, max(1, 2 * done))
        begun = time.perf_counter()
        table = job.work.chunk(batch, lambda finished, forwards: None)
        spent, done = spent + time.perf_counter() - begun, len(batch.ids)
        if failed := [text for text in table["error"].to_pylist() if text]:
            raise UserError(f"the certifier fails on the first images: {failed[0]}")
        seconds.append((time.perf_counter() - begun) / done)
        passes += table["forwards"].to_pylist()
    each = (float(min(passes)), float(max(passes)))
    mean = sum(passes) / len(passes)
    rate = min(seconds[-1], seconds[0])
    ends = (images * rate * each[0] / max(mean, 1e-9), images * rate * each[1] / max(mean, 1e-9))
    costs = [StageCost(STAGE, each, ends, images * rate, f"least and most of {some_images(done)} in a trial")]
    disk = DiskEstimate.of(StoragePolicy.of("none"), job.manifest, range(job.manifest["chunks"]), 0)
    return _estimate(job.setup, job.manifest, "certifier", costs, disk.total, done)


def _estimate(setup: Setup, manifest: Manifest, kind: str, costs: list[StageCost], disk: int, trial: int) -> Estimate:
    asked = setup.request
    shared = asked.runtime.shards * len(asked.runtime.every_device())
    named: Any = manifest["name"]
    title = f"{named[kind]} on {named['defense']}, {named['dataset']}, {named['threat']}"
    found = Estimate(
        title, len(setup.split), manifest["chunks"], costs, _memory(setup), disk, trial, manifest["device"]
    )  # fmt: skip
    if shared > 1:
        found.remarks.append(f"shards    {shared} processes share it; these are the seconds of all of them together")
    if asked.enough is not None:
        found.remarks.append("stop_when ends it earlier where the interval is narrow enough")
    return found


def _memory(setup: Setup) -> int:
    """Return the most bytes that were held so far, on the accelerator where the work is there."""
    if setup.device.type == "cuda":
        return torch.cuda.max_memory_allocated(setup.device)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held * (1 if sys.platform == "darwin" else 1024)


def _images(split: Split, count: int) -> Batch:
    """Return images that are spread evenly over a split, which may be sorted."""
    return split.read([number * len(split) // count for number in range(count)])


def _predict(run: Evaluation, batch: Batch) -> None:
    ids = batch.ids.to(run.device)
    with torch.no_grad():
        run.victim.predict(batch.x.to(run.device), Rng(run.seed, ids, "estimate"))


def _pass(run: Evaluation, stage: Stage, batch: Batch, forward: float) -> float:
    """Return the seconds of a forward and a backward pass for one image on the head of a stage; without gradients, of a
    forward."""
    order = batch.ids.argsort()
    ids, x, y = (each[order].to(run.device) for each in batch)
    head = run.counted_head(stage, Counts.of(ids), y)
    gradient = getattr(head, "gradient", None)
    if gradient is None or getattr(stage.attack, "needs", "") != "gradient":
        return forward

    each = _seconds(lambda: gradient(x, torch.ones_like, Rng(run.seed, ids, "estimate"))) / len(ids)
    return each / max(1, stage.head.draws)


def _seconds(call: Any) -> float:
    """Return how long a call takes, the first one left out."""
    best = float("inf")
    for number in range(1 + REPEATS):
        begun = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun) if number else best
    return best


def _trial(run: Evaluation, split: Split, count: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return rows and seconds of the attack on a few images; nothing without any."""
    if not count:
        return pd.DataFrame(), {}
    done = evaluate_chunk(run, _images(split, count))
    if failed := [text for text in done.rows["error"].to_pylist() if text]:
        raise UserError(f"the attack fails on the first images: {failed[0]}")
    return done.rows.to_pandas(), done.seconds

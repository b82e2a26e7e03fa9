"""The command line of training: from a composed configuration to a short table."""

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from harness.cli import write
from harness.cli_errors import cell
from harness.compose import build, checked
from harness.data import Dataset
from training import history
from training.history import History, Kept
from training.loop import BEST, LAST
from training.part import Part
from training.world import join

KEYS = ("dataset", "model", "recipe", "runtime", "logger", "seed", "runs_dir", "trusted_packages")


def run_job(cfg: DictConfig) -> None:
    """Train one network and report it; see `harness.cli_errors.cell` for what becomes of mistakes."""

    def work() -> bool:
        folder = train(cfg)
        if join().rank == 0:
            write("\n".join(lines(folder)))
        return True

    cell(work, "stopped; the same command goes on from the last saved state")


def train(composed: DictConfig) -> Path:
    """The folder of the trained weights; trained there unless they are there already.

    Raises:
        UserError: the configuration, the data or the model is unfit, or the folder cannot be written.
    """
    cfg = checked(composed, KEYS)
    join()
    runtime, tracker = build(cfg.runtime), build(cfg.logger)
    torch.set_num_threads(runtime.threads)
    dataset: Dataset = build(cfg.dataset)
    model, recipe = (OmegaConf.to_container(node) for node in (cfg.model, cfg.recipe))
    assert isinstance(model, dict)
    assert isinstance(recipe, dict)
    part = Part(model, recipe, seed=cfg.seed)  # type: ignore[arg-type]
    cache = Path(cfg.runs_dir) / "_trained"
    device, progress = runtime.torch_device(), runtime.progress
    return part.train(
        dataset, cache, device=device, progress=progress, tracker=tracker,
        channels_last=runtime.channels_last, compiled=runtime.compile,
    )  # fmt: skip


def lines(folder: Path) -> list[str]:
    """The report of a training."""
    done = history.read(folder)
    count = f"{len(done.epochs)} epoch{'s' * (len(done.epochs) != 1)}"
    forwards, backwards = (sum(getattr(epoch, name) for epoch in done.epochs) for name in ("forwards", "backwards"))
    return [
        "",
        f"{'validation':<12}{'epoch':>6}{'clean':>9}{'pgd':>9}",
        *(_row(name, kept) for name, kept in (("best", done.best), ("last", done.last)) if kept),
        *_overfitting(done),
        *_columns(done),
        f"{count} in {done.seconds:.0f} s; per image {forwards:.0f} forwards and {backwards:.0f} backwards",
        f"weights: {folder / BEST} and {LAST}",
    ]


def _overfitting(done: History) -> list[str]:
    """What robust overfitting has cost, and in which epochs robustness was lost to it at one stroke."""
    if not (done.best and done.last):
        return []
    gap = done.best.pgd - done.last.pgd
    alarms = ", ".join(str(epoch.epoch) for epoch in done.epochs if epoch.catastrophic)
    return [
        f"robust overfitting: best - last {100 * gap:+.2f} points of pgd",
        *[f"CATASTROPHIC OVERFITTING in epoch {alarms}: accuracy under one step left that under many behind"]
        * bool(alarms),
    ]


def _columns(done: History) -> list[str]:
    """What else the last epoch had to tell: the loss of each player, the load of each expert."""
    columns = done.epochs[-1].columns if done.epochs else {}
    return ["last epoch: " + ", ".join(f"{name} {value:.3f}" for name, value in columns.items())] * bool(columns)


def _row(name: str, kept: Kept) -> str:
    return f"{name:<12}{kept.epoch:>6}{kept.clean:>9.2%}{kept.pgd:>9.2%}"

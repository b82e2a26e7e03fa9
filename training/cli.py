"""The command line of training: from a composed configuration to a short table."""

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from harness.cli import write
from harness.cli_errors import cell
from harness.compose import build, checked
from harness.data import Dataset
from training import history
from training.history import Kept
from training.loop import BEST, LAST
from training.part import Part

KEYS = ("dataset", "model", "recipe", "runtime", "logger", "seed", "runs_dir", "trusted_packages")


def run_job(cfg: DictConfig, failed: list[str]) -> None:
    """Train one network and report it; see `harness.cli_errors.cell` for what becomes of mistakes."""

    def work() -> bool:
        write("\n".join(lines(train(cfg))))
        return True

    cell(work, failed, "stopped; the same command goes on from the last saved state")


def train(composed: DictConfig) -> Path:
    """The folder of the trained weights; trained there unless they are there already.

    Raises:
        UserError: the configuration, the data or the model is unfit, or the folder cannot be written.
    """
    cfg = checked(composed, KEYS)
    runtime, tracker = build(cfg.runtime), build(cfg.logger)
    torch.set_num_threads(runtime.threads)
    dataset: Dataset = build(cfg.dataset)
    model, recipe = (OmegaConf.to_container(node) for node in (cfg.model, cfg.recipe))
    assert isinstance(model, dict)
    assert isinstance(recipe, dict)
    part = Part(model, recipe, seed=cfg.seed)  # type: ignore[arg-type]
    cache = Path(cfg.runs_dir) / "_trained"
    device, progress = runtime.torch_device(), runtime.progress
    return part.train(dataset, cache, device=device, progress=progress, tracker=tracker)


def lines(folder: Path) -> list[str]:
    """The report of a training."""
    done = history.read(folder)
    count = f"{len(done.epochs)} epoch{'s' * (len(done.epochs) != 1)}"
    forwards, backwards = (sum(getattr(epoch, name) for epoch in done.epochs) for name in ("forwards", "backwards"))
    return [
        "",
        f"{'validation':<12}{'epoch':>6}{'clean':>9}{'pgd':>9}",
        *(_row(name, kept) for name, kept in (("best", done.best), ("last", done.last)) if kept),
        f"{count} in {done.seconds:.0f} s; per image {forwards:.0f} forwards and {backwards:.0f} backwards",
        f"weights: {folder / BEST} and {LAST}",
    ]


def _row(name: str, kept: Kept) -> str:
    return f"{name:<12}{kept.epoch:>6}{kept.clean:>9.2%}{kept.pgd:>9.2%}"

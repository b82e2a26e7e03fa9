"""The training loop: one for every objective, and the same weights however often it is killed and started again."""

import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from gauntlet.data import Dataset
from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.system.progress import Bar
from gauntlet.tracking import TrainingLog
from gauntlet.training import resume_state
from gauntlet.training.distributed import ALONE, ProcessGroup
from gauntlet.training.history import Epoch, History
from gauntlet.training.recipe import Recipe
from gauntlet.training.step import NotFinite
from gauntlet.training.trainer import TrainingRun

BEST, LAST = "best.safetensors", "last.safetensors"


def fit(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    identity: str,
    seed: int = 0,
    device: torch.device | str = "cpu",
    log: TrainingLog | None = None,
    progress: bool = True,
    save_seconds: float = 30.0,
    processes: ProcessGroup = ALONE,
    channels_last: bool = False,
    compiled: bool = False,
) -> History:
    """Train `model` in place, or go on where a killed process stopped: on one thread to the same weights, bit for bit.

    The folder then holds best.safetensors and last.safetensors (of the average where the recipe has one) and
    history.json; while training runs, state.pt instead of the weights. best.safetensors comes last: it means done.
    Reads the train and the validation part only.

    Args:
        model: fresh, also when a training is resumed; its output is what the objective expects.
        folder: of this training alone; only one process may train in it.
        identity: what makes this training this one; a state of another is refused.
        seed: of data order, augmentation, attack noise and dropout.
        log: receives each epoch.
        save_seconds: the state is saved after each epoch, and within one after so long.
        processes: the processes that train together; the first one writes.
        channels_last: order of the numbers of images and weights in memory; faster on GPUs.
        compiled: let torch.compile make the passes through the network faster.

    Raises:
        UserError: loss or weights became NaN or infinite (the batch is kept for inspection), the folder cannot be
            written (the state that was there is kept), or its state is another's.
    """
    run = TrainingRun(model, dataset, recipe, seed, torch.device(device), processes, channels_last, compiled)
    run.collect(folder if processes.rank == 0 else None, progress and processes.rank == 0)
    saved = resume_state.load(folder, identity)
    if saved is not None:
        run.restore(saved)
    try:
        _finish(run, folder, identity, log, progress, save_seconds)
    except NotFinite as cause:
        raise UserError(_inspectable(cause, run, folder)) from None
    history = run.result()
    if processes.rank == 0:
        checkpoint.save(run.kept, folder / LAST, {})
        history.write(folder)
        checkpoint.save(run.best(), folder / BEST, {})
        resume_state.clear(folder)
    processes.wait()
    return history


def _finish(
    run: TrainingRun, folder: Path, identity: str, log: TrainingLog | None, progress: bool, save_seconds: float
) -> None:
    """Train to the end; the first process keeps the state on disk."""
    first = run.processes.rank == 0
    with Bar(
        desc=f"training {folder.name}", total=run.total, initial=run.step, unit="batches", shown=progress and first
    ) as bar:
        due = time.monotonic() + save_seconds
        bar.note(_line(run))
        for finished in run.steps():
            bar.reach(run.step)
            if not first:
                continue
            if finished:
                bar.note(_line(run))
                run.history.write(folder)
                if log:
                    log.log(_tracked(run.history.epochs[-1]), step=run.epoch)
            if finished or time.monotonic() >= due:
                resume_state.save(folder, identity, run.state())
                due = time.monotonic() + save_seconds


def _inspectable(cause: NotFinite, run: TrainingRun, folder: Path) -> str:
    """Return what to tell about a training that diverged; the batch lies in a file, for torch.load."""
    place = ""
    if cause.batch:
        path = folder / (f"diverged-{run.processes.rank}.pt" if run.processes.rank else "diverged.pt")
        resume_state.keep(path, cause.batch)
        place = f"; the batch lies in {path}"
    return (
        f"training went to NaN or infinity in epoch {run.epoch + 1} ({cause}); "
        f"lower recipe.learning_rate (now {run.recipe.learning_rate}) or set recipe.clip=1{place}"
    )


def _line(run: TrainingRun) -> str:
    words = f"epoch {min(run.epoch + 1, run.recipe.epochs)}/{run.recipe.epochs}"
    if not run.history.epochs:
        return words
    done = run.history.epochs[-1]
    pgd = "" if math.isnan(done.pgd) else f", pgd {done.pgd:.1%}"
    alarm = ", CATASTROPHIC OVERFITTING" * done.catastrophic
    return f"{words}, loss {done.loss:.3f}, validation {done.clean:.1%}{pgd}{alarm}"


def _tracked(epoch: Epoch) -> dict[str, float]:
    fields = asdict(epoch)
    values = {**fields.pop("columns"), **fields}
    return {f"training/{name}": float(value) for name, value in values.items() if not math.isnan(value)}

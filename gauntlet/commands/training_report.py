"""Report of a training, in lines for the terminal."""

from pathlib import Path

from gauntlet.training import history
from gauntlet.training.history import History, Kept
from gauntlet.training.loop import BEST, LAST


def lines(folder: Path) -> list[str]:
    """Return the report of a training."""
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
    """Return what robust overfitting has cost, and in which epochs robustness was lost to it at one stroke."""
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
    """Return what else the last epoch had to tell: the loss of each player, the load of each expert."""
    columns = done.epochs[-1].columns if done.epochs else {}
    return ["last epoch: " + ", ".join(f"{name} {value:.3f}" for name, value in columns.items())] * bool(columns)


def _row(name: str, kept: Kept) -> str:
    return f"{name:<12}{kept.epoch:>6}{kept.clean:>9.2%}{kept.pgd:>9.2%}"

"""`gauntlet train`, or `python train.py`: train a network by a recipe. Torch is imported once it runs."""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from gauntlet.commands.entry import attempt, entry
from gauntlet.commands.terminal import write
from gauntlet.config.shipped import CONF
from gauntlet.system.output import steady_output


def job(cfg: DictConfig) -> None:
    """Train one network and report it; see `gauntlet.commands.entry.attempt` for what becomes of mistakes."""
    from gauntlet.commands.training_report import lines
    from gauntlet.jobs.training_job import train
    from gauntlet.training.distributed import join

    def work() -> bool:
        folder = train(cfg)
        if join().rank == 0:
            write("\n".join(lines(folder)))
        return True

    attempt(work, "stopped; the same command goes on from the last saved state")


compose_and_train = hydra.main(version_base=None, config_path=CONF, config_name="train")(job)


def main(words: Sequence[str] | None = None) -> int:
    """Compose, train, report; return the exit status."""
    if words is not None:  # Hydra reads them from there
        sys.argv[:] = ["train.py", *words]
    with steady_output():
        return entry(compose_and_train, "train")

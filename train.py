"""Train a network by a recipe: `python train.py recipe=pgd_at dataset=digits`. See `python train.py --help`."""

import os
import sys

# Before torch is imported: threads that wait must not spin, and one thread a process is the fast choice on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hydra
from omegaconf import DictConfig

failed: list[str] = []  # trainings of this process's sweep that ended in a user's mistake


@hydra.main(version_base=None, config_path="pkg://conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Compose, call, report."""
    from training.cli import run_job

    run_job(cfg, failed)


if __name__ == "__main__":
    main()
    sys.exit(1 if failed else 0)

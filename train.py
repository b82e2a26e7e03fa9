"""Train a network by a recipe: `python train.py recipe=pgd_at dataset=digits`. See `python train.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

import harness  # noqa: F401  (settings that must stand before torch is imported)

failed: list[str] = []  # trainings of this process's sweep that ended in a user's mistake


@hydra.main(version_base=None, config_path="pkg://conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Compose, call, report."""
    from training.cli import run_job

    run_job(cfg, failed)


if __name__ == "__main__":
    main()
    sys.exit(1 if failed else 0)

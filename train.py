"""Train a network by a recipe: `python train.py recipe=pgd_at dataset=digits`. See `python train.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from harness.cli_errors import entry


@hydra.main(version_base=None, config_path="pkg://conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Compose, call, report."""
    from training.cli import run_job

    run_job(cfg)


if __name__ == "__main__":
    sys.exit(entry(main))

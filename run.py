"""Evaluate a defense: `python run.py attack=pma defense=adaptive_smoothing`. See `python run.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from harness.cli_errors import entry


@hydra.main(version_base=None, config_path="pkg://conf", config_name="run")
def main(cfg: DictConfig) -> None:
    """Compose, call, report."""
    from harness.cli import report, run_job

    run_job(cfg, report)


if __name__ == "__main__":
    sys.exit(entry(main))

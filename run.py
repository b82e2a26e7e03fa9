"""Evaluate a defense: `python run.py attack=pma defense=adaptive_smoothing`. See `python run.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

import harness  # noqa: F401  (settings that must stand before torch is imported)

failed: list[str] = []  # cells of this process's sweep that ended in a user's mistake


@hydra.main(version_base=None, config_path="pkg://conf", config_name="run")
def main(cfg: DictConfig) -> None:
    """Compose, call, report."""
    from harness.cli import report, run_job

    run_job(cfg, report, failed)


if __name__ == "__main__":
    main()
    sys.exit(1 if failed else 0)

"""Send to Weights & Biases what workers without a network kept offline: `gauntlet sync [runs] [--dry-run]`.

To be called where there is a network, such as on a login node. Runs that were sent before are left out, so the same
command may be given while a sweep is at work and again when it has ended.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gauntlet.errors import UserError, printable
from gauntlet.tracking.wandb_connection import wandb

SENT = ".synced"
"""What W&B adds to the name of a file once it was sent."""


def waiting(root: Path) -> tuple[list[Path], int]:
    """Return the offline runs that were not sent yet, oldest first, and how many were.

    root: a folder of runs, or what `logger.dir` names.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder of runs, or that of logger.dir")
    found = [path for place in (root / "_wandb" / "wandb", root / "wandb") for path in place.glob("offline-run-*")]
    kept = sorted((path for path in found if any(path.glob("*.wandb"))), key=lambda path: path.name)
    left = [path for path in kept if not any(path.glob(f"*.wandb{SENT}"))]
    return left, len(kept) - len(left)


def command(folders: Sequence[Path]) -> list[str]:
    """Return the command of W&B that sends them."""
    return ["wandb", "sync", *map(str, folders)]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: that of W&B; 0 where nothing waits; 1 after one line about what the user can fix."""
    parser = argparse.ArgumentParser(prog="gauntlet sync", description="Send offline runs to W&B.")
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument("--dry-run", action="store_true", help="only print W&B's command")
    options = parser.parse_args(arguments)
    try:
        folders, sent = waiting(options.runs)
        count = "1 offline run waits" if len(folders) == 1 else f"{len(folders)} offline runs wait"
        sys.stdout.write(f"{count} in {options.runs}, {sent} {'was' if sent == 1 else 'were'} sent\n")
        if not folders:
            return 0
        sys.stdout.write(f"{printable(shlex.join(command(folders)))}\n")
        if options.dry_run:
            return 0
        sys.stdout.flush()
        if not wandb().login(prompt=False, verify=False):
            raise UserError("no API key here; log in once with `wandb login`, or set WANDB_API_KEY, then try again")
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    return subprocess.run([sys.executable, "-m", *command(folders)]).returncode

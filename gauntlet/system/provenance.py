"""What a run was made with: library versions, the commit of the code, the device."""

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

import gauntlet

_LIBRARIES = ("torch", "torchvision", "numpy", "hydra-core", "pandas", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a result can depend on."""
    found = {"python": platform.python_version(), "gauntlet": gauntlet.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> tuple[str, bool]:
    """Commit of the checkout that this code runs from and whether it has changes; ("", False) outside a checkout."""
    here = Path(gauntlet.__file__).resolve().parent.parent
    if not (here / ".git").exists():  # installed, perhaps within somebody else's checkout
        return "", False
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", False
    return (head.stdout.strip(), bool(changed.stdout.strip())) if head.returncode == 0 else ("", False)


def describe(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

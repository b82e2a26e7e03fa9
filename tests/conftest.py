"""Fixtures for every test."""

import os
from pathlib import Path

import pytest

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public data and networks beside the checkout (GAUNTLET_SHARED, or ../shared); skips without it."""
    folder = Path(os.environ.get("GAUNTLET_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"the public data is not there: {folder} (set GAUNTLET_SHARED)")
    return folder

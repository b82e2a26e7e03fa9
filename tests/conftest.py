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


@pytest.fixture(autouse=True, scope="session")
def _own_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Seal verdicts with a key in a folder of the tests, never with the user's; subprocesses inherit it."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def _hydra_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what a command that ran in this process set, so that commands of other tests do not inherit it."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.delenv("HYDRA_FULL_ERROR")

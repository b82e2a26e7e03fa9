"""Fixtures for every test."""

import copy
import gc
import os
from functools import cache
from pathlib import Path

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.config.shipped import CONF


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


def pytest_collection_finish() -> None:
    """Leave the eight thousand collected tests out of every later search for garbage, and search less often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def _yaml_read_once() -> None:
    """Parse each file of conf/ and of Hydra's own once in a process, not in each of a thousand compositions."""
    Plugins.instance()  # its search for plugins makes the classes anew: those known before are not those in use
    for scheme, kept in (("file", CONF), ("pkg", None)):
        _read_once(SourcesRegistry.instance().resolve(scheme), kept)


def _read_once(source: type[ConfigSource], kept: str | None) -> None:
    """Have a kind of source parse each file of a folder, or of any, once."""
    parse = source.load_config

    @cache
    def parsed(folder: str, config_path: str) -> ConfigResult:
        return parse(source("conf", f"{source.scheme()}://{folder}"), config_path)

    def load_config(self: ConfigSource, config_path: str) -> ConfigResult:
        if kept not in (None, self.path):
            return parse(self, config_path)
        found = copy.deepcopy(parsed(self.path, config_path))
        found.provider = self.provider
        return found

    source.load_config = load_config  # type: ignore[method-assign]

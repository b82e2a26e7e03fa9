"""A run of the `wandb` package: opened with limits on the time it may take, and finished in any case."""

import functools
import importlib
import os
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

INIT_SECONDS = 20.0
"""Longest wait for the server to take a run, unless WANDB_INIT_TIMEOUT says otherwise."""

ANSWER_SECONDS = 5.0
"""Longest wait for any answer of the server before that."""

FINISH_SECONDS = 60.0
"""Longest wait for uploads at the end of a run; what is left can be sent with `wandb sync`."""


class WandbRun(Protocol):
    """What we use of W&B's run."""

    summary: Any

    def log(self, data: dict[str, Any], step: int | None = None) -> None: ...
    def log_artifact(self, artifact_or_path: object) -> object: ...
    def finish(self, exit_code: int | None = None) -> None: ...


def wandb() -> ModuleType:
    """Return the package, imported when it is first used."""
    return importlib.import_module("wandb")


@contextmanager
def opened(
    folder: Path, *, online: bool, failed: bool, missed: Callable[[Exception], None], **options: object
) -> Iterator[WandbRun]:
    """Open a W&B run, finished with exit code 1 where `failed` or the block raises, else 0.

    Args:
        folder: for W&B's files.
        online: whether to try the server.
        missed: called with the cause where the server cannot be had; the run is then offline.
        options: of `wandb.init`.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # where it cannot write, W&B would quietly go elsewhere
    with _environment(folder):
        run = _start(online, missed, {"dir": str(folder), **options})
        code = 1
        try:
            yield run
            code = int(failed)
        finally:
            run.finish(exit_code=code)


def _start(online: bool, missed: Callable[[Exception], None], options: dict[str, object]) -> WandbRun:
    settings = wandb().Settings(
        console="off",
        silent=True,
        x_disable_stats=True,
        disable_git=True,
        disable_code=True,
        init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_SECONDS),
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
    )
    init: Callable[..., WandbRun] = functools.partial(
        wandb().init, **options, settings=settings, reinit="finish_previous", resume="allow"
    )
    if online:
        try:
            _check_server()
            return init(mode="online")
        except Exception as cause:
            missed(cause)
            wandb().teardown()  # else its id would count as taken
    return init(mode="offline")


def _check_server() -> None:
    """Raise where a run cannot be online, within seconds and without a question to the user."""
    if not wandb().login(prompt=False, verify=False):
        raise ConnectionError("no API key; log in with `wandb login`")
    url = wandb().setup().settings.base_url
    if not _answers(url):
        raise ConnectionError(f"{url} does not answer")


@functools.cache  # so that each run of a sweep need not wait
def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as cause:
        return isinstance(cause.reason, ssl.SSLError)  # it is there, and W&B may know other certificates
    except OSError:
        return False
    return True


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """What W&B takes from the environment only: all its files lie in `folder`, and it reports nothing to its maker."""
    wanted = {
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
    }
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)

"""One job on several devices of a machine: a process for each, and each takes its share of the chunks."""

import copy
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from omegaconf import DictConfig, open_dict

from gauntlet.config.runtime import Runtime
from gauntlet.errors import UserError, described
from gauntlet.system.orphan import end_with_parent

Job = Callable[[DictConfig, dict[str, str], str], Any]
"""Evaluates or certifies; a function of a module, as another process has to find it."""

log = logging.getLogger(__name__)


def shares(runtime: Runtime, chunks: int) -> list[Runtime]:
    """Return what each device does: of the chunks that fall to this process, every so many.

    Args:
        chunks: of the whole run; there are no more shares than chunks.
    """
    devices = runtime.every_device()[: max(1, chunks)]
    return [
        replace(
            runtime,
            device=device,
            devices=None,
            shards=runtime.shards * len(devices),
            shard=runtime.shard + runtime.shards * number,
        )
        for number, device in enumerate(devices)
    ]


@contextmanager
def at_work(
    job: Job, others: list[Runtime], composed: DictConfig, choices: dict[str, str], command: str
) -> Iterator[None]:
    """Have other processes do their shares meanwhile; wait for them, or end them where this one fails.

    A share that was not done, because its process died or met a mistake, is only warned of: the chunks are left.

    Args:
        job: what each of them does.
        others: the shares of the other processes.
        composed, choices, command: of the whole job.
    """
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU of its parent
    started: list[tuple[Runtime, SpawnProcess, Connection]] = []
    try:
        for runtime in others:
            receiver, sender = context.Pipe(duplex=False)
            words = (job, _config(composed, runtime), choices, command, sender)
            process = context.Process(target=_work, args=words, name=f"worker on {runtime.device}")
            process.start()
            sender.close()
            started.append((runtime, process, receiver))
        yield
        for runtime, process, receiver in started:
            if why := _outcome(process, receiver):
                log.warning("the worker on %s ended early (%s); its chunks are done here", runtime.device, why)
    finally:
        for _, process, _ in started:
            process.terminate()
            process.join()


def _config(composed: DictConfig, runtime: Runtime) -> DictConfig:
    cfg = copy.deepcopy(composed)
    with open_dict(cfg):
        for name in ("device", "devices", "shards", "shard"):
            cfg.runtime[name] = getattr(runtime, name)
        cfg.runtime.progress = False
    return cfg


def _work(job: Job, cfg: DictConfig, choices: dict[str, str], command: str, sender: Connection) -> None:
    """Do one share in a process of its own; send why not, where it ends early."""
    end_with_parent()
    logging.disable(logging.WARNING)  # the parent says the same
    try:
        job(cfg, choices, command)
        sender.send("")
    except UserError as cause:
        sender.send(str(cause))
    except KeyboardInterrupt:
        sender.send("it was stopped")
    except Exception as cause:
        sender.send(described(cause))


def _outcome(process: SpawnProcess, receiver: Connection) -> str:
    """Wait for a process; return why it ended early, or an empty text."""
    try:
        said: str = receiver.recv()
    except EOFError:
        process.join()
        return f"exit status {process.exitcode}"
    process.join()
    return said

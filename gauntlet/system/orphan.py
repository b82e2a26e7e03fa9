"""End a worker process with the process that started it. Imports no torch.

The workers of joblib outlive a killed parent by the rest of their job, and then by minutes of waiting for another one.
"""

import multiprocessing
import os
import threading
import time
from functools import cache

INTERVAL = 1.0
"""Seconds between two looks; a look is one system call."""


def end_with_parent() -> None:
    """End this process soon after its parent is gone, if it is a worker of multiprocessing.

    A process of a shell, of Slurm or of Ray is none, and outlives its parent as before. What is being written then is
    there whole or not at all.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        _start(os.getpid(), parent.pid)


@cache
def _start(own: int, parent: int) -> None:
    """Start the watch, once in each process; a forked one has none of the threads of its parent."""
    threading.Thread(target=_watch, args=(parent,), name=f"watch over the parent of {own}", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    os._exit(1)

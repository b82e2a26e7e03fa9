"""Calls that can stand still: threads of which, with their owner, exactly one runs at a time."""

import contextvars
import threading
from collections.abc import Callable
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

POLL = 0.01
"""Seconds between two looks at a thread that is to end."""


DEVICES = ("cpu", "cuda", "mps")
"""Types of devices whose autocast a thread has of its own."""


class Stopped(BaseException):
    """Unwinds a call that is not to go on. No attack may take it for a crash of its own."""


class Task(Generic[T]):
    """A call in a thread of its own that runs only while its owner waits for it.

    Gradients are recorded in it as they are where it was made, autocast is as it is there, and context variables have
    the same values.

    Args:
        call: without arguments.

    Attributes:
        ended: whether it returned or raised.
        error: what it raised; None: nothing so far.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self.ended = False
        self.error: BaseException | None = None
        self._call, self._grad, self._context = call, torch.is_grad_enabled(), contextvars.copy_context()
        self._autocast = [  # (device type, dtype): torch keeps both for each thread
            (kind, torch.get_autocast_dtype(kind)) for kind in DEVICES if torch.is_autocast_enabled(kind)
        ]
        self._go: SimpleQueue[None] = SimpleQueue()
        self._back: SimpleQueue[None] = SimpleQueue()
        self._parked = self._stopped = False
        self._result: list[T] = []
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Run until it parks or ends. The owner calls this."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._context.run, args=(self._run,), daemon=True)
            self._thread.start()
        else:
            self._parked = False
            self._go.put(None)
        self._back.get()

    def park(self) -> None:
        """Stand still until the owner resumes. The call itself calls this. Raises Stopped where it is not to go on."""
        if not self._stopped:
            self._parked = True
            self._back.put(None)
            self._go.get()
        if self._stopped:
            raise Stopped

    def result(self) -> T:
        """Return what the call returned, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return self._result.pop()

    def stop(self) -> None:
        """Unwind the call and wait for its end, also where the owner was interrupted while it ran."""
        self._stopped = True
        while self._thread is not None and self._thread.is_alive():
            if self._parked:
                self._parked = False
                self._go.put(None)
            self._thread.join(POLL)
        self.ended = True

    def _run(self) -> None:
        try:
            with ExitStack() as modes:
                modes.enter_context(torch.set_grad_enabled(self._grad))
                for kind, dtype in self._autocast:
                    modes.enter_context(torch.autocast(kind, dtype))
                self._result.append(self._call())
        except Stopped:
            pass
        except BaseException as cause:  # handed to the owner
            self.error = cause
        finally:
            self.ended = True
            self._back.put(None)

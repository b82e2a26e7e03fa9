"""Bars: on the terminal for who watches it, and in words for other machines, which read them in the owner's file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tqdm import tqdm

_open: list[Callable[[], str]] = []


class Bar:
    """A bar that counts, whether it is shown or not.

    Args:
        desc: what is being done.
        total, initial: how much there is, and is done already.
        unit: of both.
        shown: on standard error.
    """

    def __init__(self, *, desc: str, total: int, initial: int, unit: str, shown: bool) -> None:
        self._bar = tqdm(total=total, initial=initial, unit=unit, desc=desc, disable=not shown, dynamic_ncols=True)
        self._desc, self._total, self._unit = desc, total, unit
        self._first, self._begun, self._at = initial, time.monotonic(), initial

    def __enter__(self) -> Self:
        _open.append(self.words)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        _open.remove(self.words)
        self._bar.close()

    def update(self, count: int) -> None:
        """So much more is done."""
        self._at += count
        self._bar.update(count)

    def reach(self, position: int) -> None:
        """So much is done in all."""
        self.update(position - self._at)

    def note(self, text: str, refresh: bool = True) -> None:
        """What to say behind the bar."""
        self._bar.set_postfix_str(text, refresh=refresh)

    def words(self) -> str:
        """Such as "trades pgd 45 %, 120 samples/s, 3 min left"; rate and time left once something is done."""
        text = f"{self._desc} {100 * self._at // max(self._total, 1)} %"
        rate = (self._at - self._first) / max(time.monotonic() - self._begun, 1e-9)
        if rate <= 0:
            return text
        return f"{text}, {rate:.3g} {self._unit}/s, {duration((self._total - self._at) / rate)} left"


def describe() -> str:
    """Return what this process is doing, in one line; "": nothing that is counted."""
    return _open[-1]() if _open else ""


@contextmanager
def saying(text: str) -> Iterator[None]:
    """Let `told` say this."""

    def words() -> str:
        return text

    _open.append(words)
    try:
        yield
    finally:
        _open.remove(words)


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"

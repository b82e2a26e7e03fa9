"""Which samples are re-run, and how likely a number of changed rows would have been missed. Imports no torch."""

import hashlib
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from gauntlet.errors import UserError

DEFAULT = "16"
"""Samples that are re-run where no number is given."""

_COUNT = re.compile(r"[1-9]\d{0,9}")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")


@dataclass(frozen=True)
class Amount:
    """How much is re-run: `count` samples, a `share` of them in (0, 1], or everything where both are None."""

    count: int | None = None
    share: float | None = None

    @classmethod
    def of(cls, text: str) -> "Amount":
        """Return the amount that a text such as "16" or "5%" says. Raises UserError for anything else."""
        if _COUNT.fullmatch(text):
            return cls(count=int(text))
        found = _SHARE.fullmatch(text)
        if found and 0 < float(found[1]) <= 100:
            return cls(share=float(found[1]) / 100)
        raise UserError(f"--replay {text} is no number of samples and no share; give --replay 16 or --replay 5%")

    @property
    def full(self) -> bool:
        """Return whether everything is re-run."""
        return self.count is None and self.share is None

    def among(self, total: int) -> int:
        """Return how many of so many samples are re-run."""
        if self.full:
            return total
        return min(total, self.count if self.count is not None else math.ceil(total * (self.share or 0)))


EVERYTHING = Amount()


def fresh_nonce() -> str:
    """Return random hex digits that the one who verifies draws, so that who wrote the records cannot know them."""
    return secrets.token_hex(16)


def in_order(ids: Iterable[int], records: str, nonce: str) -> list[int]:
    """Return sample ids in an order that nobody knows before both records and nonce are fixed.

    By a hash of the records alone a forger could choose changes that his own samples miss, trying until they do.

    Args:
        records: digest of the records.
        nonce: of the one who verifies.
    """
    return sorted(ids, key=lambda each: hashlib.sha256(f"{records}:{nonce}:{each}".encode()).digest())


def missed(changed: int, looked: int, total: int) -> float:
    """Return the probability that none of `looked` samples, drawn without replacement, is one of the changed ones.

    >>> round(missed(50, 16, 1000), 4)
    0.4369
    """
    if changed > total - looked:
        return 0.0
    logs = (math.lgamma(total - changed + 1) - math.lgamma(total - changed - looked + 1)) - (
        math.lgamma(total + 1) - math.lgamma(total - looked + 1)
    )
    return math.exp(min(logs, 0.0))


def unseen(looked: int, total: int, chance: float) -> int:
    """Return the least number of changed samples that would have been missed with at most this probability."""
    low, high = 1, max(total, 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if missed(middle, looked, total) <= chance else (middle + 1, high)
    return low


def chance_words(looked: int, total: int, unit: str = "samples") -> str:
    """Return in words with which probability changes in how many samples, or chunks, would have been missed."""
    if looked >= total:
        return "nothing was left out, so no changed row can have been missed"
    some = sorted({max(1, round(share * total)) for share in (0.01, 0.05, 0.2)})
    parts = [f"{count} with {missed(count, looked, total):.1%}" for count in some]
    sure = unseen(looked, total, 0.01)
    return (
        f"changed rows in so many of {total} {unit} would have been missed: {', '.join(parts)}; "
        f"in {sure} or more with at most 1.0%"
    )

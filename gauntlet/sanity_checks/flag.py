"""What a check says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """One red flag: a stable name, and what was seen."""

    name: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "detail": self.detail}

"""Accuracies that a publication reports and for which there is no evidence: kept apart from runs. Imports no torch.

They lie in `RUNS/_reported/NAME.json`, where no search for runs looks. Nothing ranks by them beside evidence.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gauntlet.errors import UserError, printable
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.file_reader import read_regular

FOLDER = "_reported"
SCHEMA_VERSION = 1
MARK = "reported, without evidence"

Accuracies = Mapping[str, Mapping[str, float]]
"""System -> measure -> accuracy, a share."""


@dataclass(frozen=True)
class ReportedTable:
    """What a publication reports.

    Attributes:
        source: the publication, in words.
        digest: of the file that it came from.
        tables: data set -> accuracies.
        about: system -> what it is, such as its architecture.
    """

    source: str
    digest: str
    tables: Mapping[str, Accuracies]
    about: Mapping[str, str]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises UserError where it cannot be written."""
        content = {
            "schema_version": SCHEMA_VERSION, "kind": "reported", "evidence": "none",
            "source": self.source, "digest": self.digest, "tables": self.tables, "about": self.about,
        }  # fmt: skip
        write_atomically(path, json.dumps(content, sort_keys=True, separators=(",", ":")).encode())

    @classmethod
    def read(cls, path: Path) -> "ReportedTable":
        """Read what `write` wrote.

        Raises:
            UserError: the file is missing or damaged, or holds a number that is no share.
        """
        hint = "write it again with gauntlet import FILE --from NAME"
        try:
            content = json.loads(read_regular(path, hint=hint))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; {hint}") from None
        except (ValueError, RecursionError) as cause:
            raise UserError(f"{path} cannot be read ({printable(cause)[:200]}); {hint}") from None
        if not isinstance(content, dict) or content.get("kind") != "reported":
            raise UserError(f"{path} holds no reported accuracies; {hint}")
        try:
            tables = {
                str(name): {str(system): _shares(found) for system, found in table.items()}
                for name, table in content["tables"].items()
            }
            about = {str(system): str(text) for system, text in content["about"].items()}
            return cls(str(content["source"]), str(content["digest"]), tables, about)
        except (KeyError, AttributeError, TypeError, ValueError):
            raise UserError(f"{path} is damaged; {hint}") from None


def _shares(found: Mapping[str, Any]) -> dict[str, float]:
    shares = {str(name): float(value) for name, value in found.items()}
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in shares.values()):
        raise ValueError("no share")
    return shares


def reported_tables(root: Path) -> list[ReportedTable]:
    """Return what was imported into a runs folder, by name. Raises UserError where a file is damaged."""
    return [ReportedTable.read(path) for path in sorted((root / FOLDER).glob("*.json"))]

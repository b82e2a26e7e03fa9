"""Which class number a name stands for: of folders, of labels that are texts, and of classes in reports."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gauntlet.errors import UserError, printable
from gauntlet.system.file_reader import read_regular

IMAGENET = "imagenet"
"""The map that comes with the program: ImageNet's WordNet ids, class 0 to 999 in their sorted order."""

WNID = re.compile(r"n[0-9]{8}")

NAME_COLUMNS = ("name", "folder", "wnid", "synset")
NUMBER_COLUMNS = ("class", "index", "label", "number", "id")
TITLE_COLUMNS = ("title", "description", "text", "words")

_HINT = "give a .json, .txt or .csv file, a mapping {name: class}, or imagenet"

Entry = tuple[str, int, str]
"""Name as in the data, number of its class, name as in reports."""


@dataclass(frozen=True)
class ClassMap:
    """Classes by name.

    Attributes:
        numbers: name in the data -> number of its class.
        titles: number of a class -> its name in reports.
        whole: whether every class is listed, so that there are as many as entries.
        origin: of the map, for messages.
    """

    numbers: dict[str, int]
    titles: dict[int, str]
    whole: bool
    origin: str

    @classmethod
    def of(cls, given: Any, classes: int) -> "ClassMap":
        """Return the map that `dataset.class_map` gives.

        Args:
            given: `imagenet`; a file; a mapping from names to numbers; or a list of names, class 0 first.
            classes: of the data set; the map and it have to agree.

        Raises:
            UserError: the file is missing, damaged or of another layout, or its classes are others.
        """
        origin = f"dataset.class_map={given}" if isinstance(given, str) else "dataset.class_map"
        try:
            entries, whole = _entries(given)
        except FileNotFoundError:
            raise UserError(f"{origin}: no such file; {_HINT}") from None
        except (ValueError, RecursionError, csv.Error) as cause:
            raise UserError(f"{origin} cannot be read ({printable(cause)[:200]}); {_HINT}") from None
        if not entries:
            raise UserError(f"{origin} lists no classes; {_HINT}")
        numbers: dict[str, int] = {}
        for name, number, _ in entries:
            if name in numbers:
                raise UserError(f"{origin} lists {printable(name)} twice; list each name once")
            if not 0 <= number < classes:
                raise UserError(
                    f"{origin}: {printable(name)} is class {number}, not one of 0 to {classes - 1}; set "
                    "dataset.classes to the number of classes of the network, or fix the map"
                )
            numbers[name] = number
        if whole and len(entries) != classes:
            raise UserError(f"{origin} lists {len(entries)} classes; set dataset.classes={len(entries)}, not {classes}")
        titles: dict[int, str] = {}
        for _, number, title in entries:
            titles.setdefault(number, title)
        return cls(numbers, titles, whole, origin)

    def names(self, classes: int) -> tuple[str, ...]:
        """Return the name of every class for reports; its number where it has none."""
        return tuple(self.titles.get(number, str(number)) for number in range(classes))

    def number(self, name: str, where: str) -> int:
        """Return the class of a name.

        Args:
            where: the name stands, for the message.

        Raises:
            UserError: the map has no such name.
        """
        if name not in self.numbers:
            raise UserError(f"{where} is not in {self.origin}; add it there with its class, or take it out of the data")
        return self.numbers[name]


def _entries(given: Any) -> tuple[list[Entry], bool]:
    """Return the entries, and whether they list every class."""
    if isinstance(given, str) and given == IMAGENET:
        return _imagenet(), True
    if isinstance(given, str):
        path = Path(given).expanduser()
        read = {".json": _json, ".txt": _text, ".csv": _table}.get(path.suffix.lower())
        if read is None:
            raise ValueError("of no known kind")
        return read(read_regular(path, hint=_HINT).decode("utf-8-sig"))
    return _plain(given)


def _json(text: str) -> tuple[list[Entry], bool]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands in it twice")
        return dict(pairs)

    return _plain(json.loads(text, object_pairs_hook=unique))


def _plain(given: Any) -> tuple[list[Entry], bool]:
    """Read a mapping from names to numbers, one from numbers to names (`id2label`), or a list of names."""
    if isinstance(given, Mapping):
        if given and all(type(value) is int for value in given.values()):
            return [(str(name), number, str(name)) for name, number in given.items()], False
        if not all(str(key).isdecimal() for key in given):
            raise ValueError("a mapping goes from names to whole numbers, or from numbers to names")
        return [(*_named(value, int(str(key))),) for key, value in given.items()], False
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [_named(value, number) for number, value in enumerate(given)], True
    raise ValueError(f"it is a {type(given).__name__}")


def _named(value: Any, number: int) -> Entry:
    """Return the entry of a name, or of a name as in the data and one for reports, such as a WordNet id and a word."""
    if isinstance(value, str):
        return value, number, value
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(word, str) for word in value):
        return value[0], number, value[1]
    raise ValueError(f"class {number} has no name that is a text")


def _text(text: str) -> tuple[list[Entry], bool]:
    """Read one class a line, class 0 first: its name, or a WordNet id and words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    entries = []
    for number, line in enumerate(lines):
        wnid, _, words = line.partition(" ")
        if not WNID.fullmatch(wnid):
            entries.append((line, number, line))
            continue
        if re.match(r"[0-9]+(\s|$)", words.strip()):  # another order than that of the lines may be meant
            raise ValueError(
                f"line {number + 1} has a number after {wnid}; write a .csv with the columns name and class"
            )
        entries.append((wnid, number, words.strip() or wnid))
    return entries, True


def _table(text: str) -> tuple[list[Entry], bool]:
    """Read a table with a header: a column of names, one of class numbers, and perhaps one of titles."""
    rows = csv.DictReader(text.splitlines(), restkey="", restval="")
    columns = [_column(rows.fieldnames or (), known) for known in (NAME_COLUMNS, NUMBER_COLUMNS, TITLE_COLUMNS)]
    name, number, title = columns
    if name is None or number is None:
        raise ValueError(f"its header needs a column {NAME_COLUMNS[0]} and a column {NUMBER_COLUMNS[0]}")
    entries = []
    for row in rows:
        if not re.fullmatch(r"[0-9]{1,9}", row[number].strip()):
            raise ValueError(f"line {rows.line_num}: {row[number][:40]!r} is no class number")
        entries.append((row[name], int(row[number]), row[title] if title and row[title] else row[name]))
    return entries, False


def _column(header: Iterable[str], known: Sequence[str]) -> str | None:
    return next((column for column in header if column.strip().lower() in known), None)


def _imagenet() -> list[Entry]:
    from torchvision.models import AlexNet_Weights  # slow to import

    wnids = (Path(__file__).parent / "imagenet_wnids.txt").read_text().split()
    titles = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    return [(wnid, number, title) for number, (wnid, title) in enumerate(zip(wnids, titles, strict=True))]

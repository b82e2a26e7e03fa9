"""Which classes of a network of more classes stand for each class of a data set, such as those of ImageNet-A."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gauntlet.data.class_map import IMAGENET, ClassMap
from gauntlet.errors import UserError, printable, some
from gauntlet.system.file_reader import read_mapping, read_regular

WHOLE = 1000
"""Classes of a network for ImageNet."""

SUBSETS = ("imagenet_a", "imagenet_r")
"""Sets of 200 of ImageNet's classes that come with the program: those of Hendrycks et al., arXiv 1907.07174 and
2006.16241."""

OBJECTNET = (
    "folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json", "imagenet_to_label_2012_v2",
    "pytorch_to_imagenet_2012_id.json",
)  # fmt: skip
"""Files in the folder `mappings` of ObjectNet as published."""

HINT = (
    "give imagenet_a, imagenet_r, the folder mappings of ObjectNet, or a .json file {folder: [classes of the network]}"
)


@dataclass(frozen=True)
class ClassGroups:
    """The classes of a data set, each with the classes of a network that stand for it.

    Attributes:
        names: of each class in the data, such as its folder.
        titles: of each class in reports.
        columns: of each class, the classes of the network; they overlap nowhere.
        outputs: classes that the network has; None: any number that holds them.
        origin: in words, for messages.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]
    outputs: int | None
    origin: str

    def __post_init__(self) -> None:
        seen: dict[int, str] = {}
        for name, columns in zip(self.names, self.columns, strict=True):
            for column in columns:
                if column < 0 or (self.outputs is not None and column >= self.outputs):
                    raise UserError(f"{self.origin}: {printable(name)} is class {column}, which no network has; {HINT}")
                if other := seen.get(column):
                    raise UserError(
                        f"{self.origin}: class {column} of the network stands for {printable(other)} and for "
                        f"{printable(name)}; give each to one class"
                    )
                seen[column] = name

    @classmethod
    def of(cls, given: Any, key: str = "dataset.class_map") -> "ClassGroups":
        """Return the groups that a key of the configuration gives.

        Args:
            given: `imagenet_a`, `imagenet_r`, the folder `mappings` of ObjectNet, or a .json file
                {name in the data: class of the network, or a list of them}; its classes are sorted by name.
            key: of the configuration, for messages.

        Raises:
            UserError: it is none of these, or damaged.
        """
        origin = f"{key}={given}"
        if given in SUBSETS:
            return _subset(given)
        path = Path(str(given)).expanduser()
        if isinstance(given, str) and path.is_dir():
            return _objectnet(path, origin)
        if isinstance(given, str) and path.suffix.lower() == ".json":
            return _listed(read_mapping(path, HINT), origin)
        raise UserError(f"{origin} says no groups of classes; {HINT}")

    def mapped(self) -> ClassMap:
        """Return which class of the data set a name in the data is."""
        numbers = {name: number for number, name in enumerate(self.names)}
        return ClassMap(numbers, dict(enumerate(self.titles)), True, self.origin)


def _subset(name: str) -> ClassGroups:
    wnids = (Path(__file__).parent / f"{name}_wnids.txt").read_text().split()
    whole = ClassMap.of(IMAGENET, WHOLE)
    columns = [whole.numbers[wnid] for wnid in wnids]
    titles = tuple(whole.titles[column] for column in columns)
    return ClassGroups(tuple(wnids), titles, tuple((column,) for column in columns), WHOLE, name)


def _listed(found: Mapping[str, Any], origin: str) -> ClassGroups:
    groups = {}
    for name, value in sorted(found.items()):
        columns = value if isinstance(value, list) else [value]
        if not columns or not all(type(column) is int for column in columns):
            raise UserError(f"{origin}: {printable(name)} has no list of whole numbers; {HINT}")
        groups[name] = tuple(sorted(columns))
    if len(groups) < 2:
        raise UserError(f"{origin} lists fewer than two classes; {HINT}")
    return ClassGroups(tuple(groups), tuple(groups), tuple(groups.values()), None, origin)


def _objectnet(folder: Path, origin: str) -> ClassGroups:
    """Read the mappings of ObjectNet: folder -> label -> labels of ImageNet, "; " between them -> their numbers."""
    hint = "give the folder mappings of objectnet-1.0 as published"
    folders, groups, pytorch = (read_mapping(folder / name, hint) for name in (*OBJECTNET[:2], OBJECTNET[3]))
    texts = read_regular_text(folder / OBJECTNET[2], hint)
    labels = [line.strip() for line in texts.splitlines()]
    number_of = {identity: int(column) for column, identity in pytorch.items()}
    column_of = {label: number_of[line] for line, label in enumerate(labels) if line in number_of}
    folder_of = {label: name for name, label in folders.items()}
    found = {}
    for label, words in groups.items():
        wanted = [word.strip() for word in str(words).split("; ")]
        if missing := [word for word in wanted if word not in column_of]:
            raise UserError(f"{origin}: {OBJECTNET[2]} has no line {some(missing)}, of {printable(label)}; {hint}")
        if label not in folder_of:
            raise UserError(f"{origin}: {OBJECTNET[0]} has no folder for {printable(label)}; {hint}")
        found[folder_of[label]] = (label, tuple(sorted(column_of[word] for word in wanted)))
    names = tuple(sorted(found))
    titles, columns = zip(*(found[name] for name in names), strict=True)
    return ClassGroups(names, titles, columns, WHOLE, origin)


def read_regular_text(path: Path, hint: str) -> str:
    """Return the text of a file. Raises UserError where there is none, or it is no text."""
    try:
        return read_regular(path, hint=hint).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {hint}") from None
    except ValueError as cause:
        raise UserError(f"{path} cannot be read ({printable(cause)[:200]}); {hint}") from None

"""Data sets of the Hugging Face Hub: folders of `save_to_disk`, Arrow and Parquet files, and names on the Hub.

Local folders are read here, with no other package; a name on the Hub is fetched by the package `datasets`. No code of a
data set is ever run.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gauntlet.data.arrow_columns import features, label_names, readable
from gauntlet.data.arrow_rows import ArrowRows, schema_of
from gauntlet.data.encoded_images import EncodedImages
from gauntlet.data.file_patterns import missing_shard
from gauntlet.data.image_dataset import Part
from gauntlet.data.parquet_file import open_file, reading
from gauntlet.data.parquet_rows import ParquetRows
from gauntlet.data.selection import hold_out
from gauntlet.errors import UserError, reason, some
from gauntlet.system.file_reader import read_json

ENDINGS = (".arrow", ".parquet")

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""A name on the Hub."""


@dataclass(frozen=True, kw_only=True)
class HuggingFace(EncodedImages):
    """Encoded images in the layouts of the Hub, with their labels.

    Args:
        path: a folder that `save_to_disk` wrote, one with Arrow or Parquet files as on the Hub, a single such file, or
            the name of a data set on the Hub.
        config: the configuration, of a name on the Hub or a folder of that name; null: the only one.
        revision: of a name on the Hub: a branch, a tag or a commit; null: the newest, or the one at hand.
        download: fetch what is not at hand; needs the package `datasets`.
        train, test, validation: the names of the splits; without one for validation, a fixed tenth of the training
            images is held out.
        image, label: the columns; null: the only ones of their kind (Image, ClassLabel), or called `image` and `label`.

    Images come in the order of the files, and the sample id is the row. They are turned as their EXIF orientation says.
    """

    path: str
    config: str | None = None
    revision: str | None = None
    download: bool = False
    train: str = "train"
    test: str = "test"
    validation: str | None = None
    image: str | None = None
    label: str | None = None
    name: str = "huggingface"
    channels: int = 3

    def open(self, part: str) -> Part:
        """Return the rows of a part; see `ImageSet.open`."""
        sliced = part != "test" and self.validation is None
        files = self._files("train" if sliced else part)
        image, label = self._columns(files[0])
        form, classes = self.form(upright=True), self.mapped()
        kind = ArrowRows if files[0].suffix == ".arrow" else ParquetRows
        source = kind.open(files, image, label, form, self.classes, classes)
        if not sliced:
            return Part(source, np.arange(len(source.labels)))
        rows = hold_out(len(source.labels))
        return Part(source, rows[part == "validation"], sliced=True)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        if classes := self.mapped():
            return classes.names(self.classes)
        first = self._files("test")[0]
        names = label_names(features(_schema(first)), self._columns(first)[1])
        return names if len(names) == self.classes else ()

    def _columns(self, file: Path) -> tuple[str, str]:
        """Return the columns of images and labels."""
        schema = _schema(file)
        return (
            self.image or _column(schema, "Image", ("image", "img"), "image", file),
            self.label or _column(schema, "ClassLabel", ("label", "labels"), "label", file),
        )

    def _files(self, part: str) -> list[Path]:
        """Return the files of a part, all of one kind."""
        root = Path(self.path).expanduser()
        split = {"train": self.train, "test": self.test, "validation": self.validation}[part] or part
        if root.is_file():
            if part != "test" or root.suffix not in ENDINGS:
                raise UserError(f"dataset.path={self.path} is one file; give a folder with .arrow or .parquet files")
            return [root]
        if not root.is_dir():
            return self._fetched(split)
        if files := _saved(root, split):
            return files
        root = root / self.config if self.config and (root / self.config).is_dir() else root
        return _of_split(root, split, part)

    def _fetched(self, split: str) -> list[Path]:
        """Return the Arrow files of a data set on the Hub."""
        if not NAME.fullmatch(self.path):
            raise UserError(f"dataset.path={self.path} is not there; give a folder, a file, or a name on the Hub")
        try:
            import datasets
        except ImportError:
            raise UserError(
                f"dataset.path={self.path} is no folder, and a name on the Hub needs the package datasets; pip install "
                "datasets, or set dataset.path to a folder that has the data"
            ) from None
        try:
            with nullcontext() if self.download else _offline():
                found = datasets.load_dataset(self.path, self.config, split=split, revision=self.revision)
        except Exception as cause:  # of the package and of its transports: whatever the network leads them to
            more = "" if self.download else " and dataset.download=true"
            raise UserError(
                f"dataset.path={self.path} is no folder, and cannot be had from the Hub ({reason(cause)}); check the "
                f"name and the split {split}, and run with a network{more}"
            ) from None
        return [Path(file["filename"]) for file in found.cache_files]


@contextmanager
def _offline() -> Iterator[None]:
    """Have the packages of the Hub take what is at hand, and ask no network."""
    import datasets
    import huggingface_hub

    places = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _saved(root: Path, split: str) -> list[Path]:
    """Return the files of a folder that `save_to_disk` wrote; nothing where it is none."""
    if (root / "dataset_dict.json").is_file():
        known = _listed(root / "dataset_dict.json", "splits", lambda name: name)
        if split not in known:
            raise UserError(f"{root} has the splits {some(known, 10)}, but no {split}; set dataset.test to one of them")
        root = root / split
    if not (root / "state.json").is_file():
        return []
    state = root / "state.json"
    files = [root / Path(name).name for name in _listed(state, "_data_files", lambda file: file["filename"])]
    if not files:
        raise UserError(f"{state} names no files; save the data set anew")
    return files


def _listed(path: Path, key: str, word: Any) -> list[str]:
    """Return the texts of a list in a JSON file."""
    try:
        found = [word(item) for item in read_json(path)[key]]
    except (ValueError, KeyError, TypeError):
        found = [None]
    if not all(isinstance(text, str) for text in found):
        raise UserError(f"{path} is damaged (no list {key}); save the data set anew")
    return found


def _of_split(root: Path, split: str, part: str) -> list[Path]:
    """Return the Arrow or Parquet files with the name of the split in theirs, else those in folders with it."""
    word = re.compile(rf"(?<![^\W_]){re.escape(split)}(?![^\W_])")
    every = sorted(file for ending in ENDINGS for file in root.rglob(f"*{ending}"))
    files = [file for file in every if word.search(file.stem)]
    files = files or [file for file in every if word.search(file.parent.relative_to(root).as_posix())]
    if not files:
        there = some([file.relative_to(root).as_posix() for file in every], 5) or "none at all"
        raise UserError(
            f"{root} has no Arrow or Parquet file of the split {split} (it has {there}); "
            f"set dataset.{part} to the name of a split"
        )
    if missing := missing_shard(files):
        raise UserError(f"{root}: {missing}; fetch the rest")
    if len({file.suffix for file in files}) > 1:
        raise UserError(
            f"{root} has both Arrow and Parquet files of the split {split}; set dataset.path to one of them"
        )
    if len(folders := sorted({file.parent.relative_to(root).as_posix() for file in files})) > 1:
        raise UserError(
            f"{root} has files of the split {split} in {some(folders, 5)}; set dataset.config to one of them"
        )
    return files


def _schema(file: Path) -> pa.Schema:
    if file.suffix == ".arrow":
        return schema_of(file)
    with reading(file), open_file(file) as opened:
        return readable(opened.schema_arrow)


def _column(schema: pa.Schema, kind: str, usual: Sequence[str], key: str, file: Path) -> str:
    """Return the only column of a kind, as the Hub's library wrote it, or the one of a usual name."""
    matching = [name for name, it in features(schema).items() if isinstance(it, dict) and it.get("_type") == kind]
    matching = [name for name in matching if name in schema.names]
    for name in usual:
        if name in matching or (not matching and name in schema.names):
            return name
    if len(matching) == 1:
        return matching[0]
    raise UserError(f"{file} has the columns {some(schema.names, 20)}; set dataset.{key} to that of the {key}s")

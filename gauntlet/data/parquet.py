"""Read Parquet files as on the Hugging Face Hub: a struct `image` with `bytes` and `path`, and an int `label`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.arrow_columns import features, label_names
from gauntlet.data.encoded_images import EncodedImages
from gauntlet.data.file_patterns import files_of
from gauntlet.data.image_dataset import Part
from gauntlet.data.parquet_file import open_file, read_labels, reading
from gauntlet.data.parquet_rows import ParquetRows
from gauntlet.data.selection import hold_out


@dataclass(frozen=True, kw_only=True)
class Parquet(EncodedImages):
    """Streams: a few megabytes of encoded images are in memory at a time.

    path: a folder that `train`, `test` and `validation` are relative to; or the test part itself, as a file or a glob.
    train, test, validation: each a file, a folder or a glob; several files are taken in the order of their sorted
        paths. Without a validation part, a fixed tenth of the training images is held out.
    image, label: the names of the columns. The image column is the struct, or plain encoded bytes. The label column
        holds class numbers, or texts, of which `class_map` says the numbers.
    target: name of a column with the class that a targeted attack must reach (`threat.target=column`); null: there is
        none.

    Images come in the order of the files, and the sample id is the row, counted from 0 over all files of the part.
    They are turned as their EXIF orientation says, as the Hub's own library does.
    """

    path: str
    train: str = "train*.parquet"
    test: str = "test*.parquet"
    validation: str | None = None
    image: str = "image"
    label: str = "label"
    target: str | None = None
    name: str = "parquet"
    classes: int = 10
    channels: int = 3
    size: int = 32

    def open(self, part: str) -> Part:
        sliced = part != "test" and self.validation is None
        files = self._files("train" if sliced else part)
        source = ParquetRows.open(files, self.image, self.label, self.form(upright=True), self.classes, self.mapped())
        if not sliced:
            return Part(source, np.arange(len(source.labels)))
        training, validation = hold_out(len(source.labels))
        return Part(source, training if part == "train" else validation, sliced=True)

    def targets(self) -> NDArray[np.int64] | None:
        """Return the class that each image of the test part is to become, int64 [n], by its id; None without a column.

        Raises:
            UserError: there is no such column, or one that holds no class numbers.
        """
        if self.target is None:
            return None
        found = []
        for path in self._files("test"):
            with reading(path), open_file(path) as file:
                found.append(read_labels(file, self.target, path, self.mapped()))
        return np.concatenate(found)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        if classes := self.mapped():
            return classes.names(self.classes)
        first = self._files("test")[0]
        with reading(first), open_file(first) as file:
            names = label_names(features(file.schema_arrow), self.label)
        return names if len(names) == self.classes else ()

    def _files(self, part: str) -> list[Path]:
        return files_of(self.path, getattr(self, part), part, ".parquet")

"""Images in tar files, in the layout of WebDataset: `0001.jpg`, `0001.cls`, `0002.jpg`, and so on."""

from dataclasses import dataclass

import numpy as np

from gauntlet.data.encoded_images import EncodedImages
from gauntlet.data.file_patterns import files_of
from gauntlet.data.image_dataset import Part
from gauntlet.data.selection import hold_out
from gauntlet.data.tar_rows import Label, TarRows


@dataclass(frozen=True, kw_only=True)
class WebDataset(EncodedImages):
    """Plain tar files of samples; an image is read when it is needed.

    Args:
        path: a folder that `train`, `test` and `validation` are relative to; or the test part itself, as a file or a
            glob.
        train, test, validation: each a file, a folder or a glob; several files are taken in the order of their sorted
            paths. Without a validation part, a fixed tenth of the training images is held out.
        image: ending of the images; null: any that is known, one a sample.
        label: ending of the labels: a text file with a class number (`cls`), or `json`.
        key: of the label in a JSON object.

    Images come in the order of the files, and the sample id is the place in that order, over all files of the part.
    They are turned as their EXIF orientation says.
    """

    path: str
    train: str = "train*.tar"
    test: str = "test*.tar"
    validation: str | None = None
    image: str | None = None
    label: str = "cls"
    key: str = "label"
    name: str = "webdataset"
    channels: int = 3

    def open(self, part: str) -> Part:
        """Return the rows of a part; see `ImageSet.open`."""
        sliced = part != "test" and self.validation is None
        name = "train" if sliced else part
        files = files_of(self.path, getattr(self, name), name, ".tar")
        label = Label(self.label.lower(), self.key, self.mapped())
        source = TarRows.scan(files, self.image and self.image.lower(), label, self.form(upright=True))
        if not sliced:
            return Part(source, np.arange(len(source.labels)))
        rows = hold_out(len(source.labels))
        return Part(source, rows[part == "validation"], sliced=True)

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class; see `ImageSet.class_names`."""
        classes = self.mapped()
        return classes.names(self.classes) if classes else ()

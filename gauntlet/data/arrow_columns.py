"""Columns of Arrow tables, from Parquet and Arrow files alike: encoded images, class numbers, names."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gauntlet.data.class_map import ClassMap
from gauntlet.errors import UserError, printable, some


def readable(schema: pa.Schema) -> pa.Schema:
    """Return the columns of a table, whose names are texts: a damaged file may hold others.

    Raises:
        UnicodeDecodeError: one is none.
    """
    _ = schema.names
    return schema


def bytes_column(schema: pa.Schema, image: str, path: Path) -> str:
    """Return the place of the encoded bytes: the column, or a field of it.

    Raises:
        UserError: there is no such column, or it holds no encoded images.
    """
    if image not in schema.names:
        raise UserError(
            f"{path} has no column {image} (it has {some(schema.names, 20)}); "
            "set dataset.image to the column of the images"
        )
    kind = schema.field(image).type
    if _is_bytes(kind):
        return image
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type):
        return f"{image}.bytes"
    raise UserError(
        f"{path}: column {image} holds {kind}, no encoded images; "
        f"set dataset.image to another of {some(schema.names, 20)}"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def check_label_column(schema: pa.Schema, label: str, path: Path) -> None:
    """Refuse a table without the column of the labels."""
    if label not in schema.names:
        raise UserError(
            f"{path} has no column {label} (it has {some(schema.names, 20)}); "
            "set dataset.label to the column of the labels"
        )


def class_numbers(
    column: pa.ChunkedArray, label: str, path: Path, schema: pa.Schema, mapped: ClassMap | None
) -> NDArray[np.int64]:
    """Return the class numbers of a column of labels.

    Args:
        label: name of the column.
        schema: of the table.
        mapped: which class a text is; also a number, where the Hub's library wrote its name, or the map lists numbers.

    Raises:
        UserError: the column holds no class numbers and no text of the map, lacks a label, or has one beyond int64.
    """
    names, kind = schema.names, column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        first = next(iter(column.drop_null().slice(0, 1).to_pylist()), None)
        raise UserError(
            f"{path}: column {label} holds {kind}, such as {first}, not class numbers; write whole numbers from 0, "
            "such as int64"
        )
    if texts and mapped is None:
        first = next(iter(column.drop_null().slice(0, 1).to_pylist()), None)
        raise UserError(
            f"{path}: column {label} holds texts, such as {printable(first)[:40]}, not class numbers; give "
            f"dataset.class_map=FILE, or set dataset.label to another of {some(names, 20)}"
        )
    if not texts and not pa.types.is_integer(kind):
        raise UserError(
            f"{path}: column {label} holds {kind}, not class numbers; set dataset.label to another of {some(names, 20)}"
        )
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise UserError(f"{path}, row {row}: the label is missing; write one into column {label}")
    if mapped is not None and renumbers(schema, label, mapped):
        return _mapped(column, label, path, schema, mapped)
    largest = pc.max(column).as_py()
    if largest is not None and largest > np.iinfo(np.int64).max:
        row = pc.index(column, pa.scalar(largest, kind)).as_py()
        raise UserError(f"{path}, row {row}: the label in column {label} is {largest}; write class numbers from 0")
    labels: NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return labels


def renumbers(schema: pa.Schema, label: str, mapped: ClassMap | None) -> bool:
    """Return whether a map says the classes of a column; else it says their names alone."""
    if mapped is None:
        return False
    whole = pa.types.is_integer(schema.field(label).type)
    return not whole or bool(label_names(features(schema), label)) or all(name.isdecimal() for name in mapped.numbers)


def _mapped(column: pa.ChunkedArray, label: str, path: Path, schema: pa.Schema, mapped: ClassMap) -> NDArray[np.int64]:
    coded = pc.dictionary_encode(column.combine_chunks())
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    titles = label_names(features(schema), label)
    found = coded.dictionary.to_pylist()
    if titles and pa.types.is_integer(column.type):
        if wrong := [number for number in found if not 0 <= number < len(titles)]:
            raise UserError(f"{path}: column {label} holds {wrong[0]}, and has {len(titles)} classes; fix the labels")
        found = [titles[number] for number in found]
    numbers = [mapped.number(str(name), f"{path}, column {label}: {printable(name)[:60]}") for name in found]
    labels: NDArray[np.int64] = np.asarray(numbers, np.int64)[coded.indices.to_numpy()]
    return labels


def labels_digest(labels: NDArray[np.int64]) -> str:
    """Return what stands for a map of classes in a digest: the numbers that it gave, wherever it lies."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()[:16]


def features(schema: pa.Schema) -> dict[str, Any]:
    """Return what the Hub's library wrote about the columns; empty where it wrote nothing that can be read."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def label_names(found: dict[str, Any], label: str) -> tuple[str, ...]:
    """Return the names of the classes that the Hub's library wrote for a column of labels; empty without any."""
    feature = found.get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def check_classes(schema: pa.Schema, label: str, classes: int, mapped: ClassMap | None, path: Path) -> None:
    """Refuse a column whose classes, as the Hub's library wrote them, are not as many as the data set's."""
    titles = label_names(features(schema), label)
    if titles and mapped is None and len(titles) != classes:
        raise UserError(
            f"{path}: column {label} has {len(titles)} classes ({some(titles)}); set dataset.classes={len(titles)}, "
            f"not {classes}, or say with dataset.class_map which class of the network each of them is"
        )

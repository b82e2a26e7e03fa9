"""Folders, labels and reports go by the classes of a map, and what does not fit is one line."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gauntlet.data.class_map import ClassMap
from gauntlet.data.imagefolder import ImageFolder
from gauntlet.data.imagenet import ImageNet
from gauntlet.data.parquet import Parquet
from gauntlet.data.validation import data_set
from gauntlet.errors import UserError

ANIMALS = {"cat": 2, "dog": 5, "eel": 0}
SIZE = {"size": 8}


def number(split):
    """Name of the folder -> the label of its images."""
    batch = split.read(slice(None))
    names = [split.source.name(row).split("/")[0] for row in batch.ids.tolist()]
    return dict(zip(names, batch.y.tolist(), strict=True))


@pytest.fixture
def folder(tmp_path, pictures, write_folder):
    write_folder(tmp_path / "set" / "test", {name: pictures(2, seed=number) for name, number in ANIMALS.items()})
    return ImageFolder(path=str(tmp_path / "set"), classes=6, **SIZE)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


LIST = ["eel", "fox", "cat", "gnu", "hen", "dog"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("map.json", ANIMALS),
        ("map.json", {"0": "eel", "2": "cat", "5": "dog"}),
        ("map.json", {"0": ["eel", "Eel"], "2": ["cat", "Cat"], "5": ["dog", "Dog"]}),
        ("map.json", LIST),
        ("map.txt", "\n".join(LIST) + "\n"),
        ("map.csv", "name,class\ncat,2\ndog,5\neel,0\n"),
        ("map.csv", "title,index,folder\nCat,2,cat\nDog,5,dog\nEel,0,eel\n"),
    ],
)
def test_folders_have_the_numbers_of_the_map(folder, tmp_path, name, content):
    data = replace(folder, class_map=written(tmp_path / name, content))
    assert number(data.split("test")) == ANIMALS
    assert data.class_names()[5].lower() == "dog"
    assert len(data.class_names()) == 6


@pytest.mark.parametrize("given", [ANIMALS, LIST])
def test_a_map_may_stand_in_the_configuration(folder, given):
    assert number(replace(folder, class_map=given).split("test")) == ANIMALS


def test_some_folders_of_imagenet_have_the_numbers_of_their_wordnet_ids(tmp_path, pictures, write_folder):
    known = {"n01440764": 0, "n02123045": 281, "n03857828": 688, "n15075141": 999}  # tench, tabby, oscilloscope, paper
    write_folder(tmp_path / "val", {wnid: pictures(1) for wnid in known})
    data = ImageFolder(path=str(tmp_path), test="val", classes=1000, class_map="imagenet", **SIZE)
    assert number(data.split("test")) == known
    assert [data.class_names()[n] for n in (0, 281, 999)] == ["tench", "tabby", "toilet tissue"]
    published = ImageNet(root=str(tmp_path), size=8, resize=None)
    assert number(published.split("test")) == known
    assert published.class_names() == data.class_names()
    assert published.split("test").digest() == data.split("test").digest()


def test_the_map_changes_the_digest_where_it_changes_a_label(folder):
    first = replace(folder, class_map=ANIMALS).split("test").digest()
    assert replace(folder, class_map=LIST).split("test").digest() == first
    assert replace(folder, class_map=ANIMALS | {"cat": 3}).split("test").digest() != first


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cat": 2, "dog": 5}, r"the class folder .*eel is not in dataset\.class_map; add it there"),
        (ANIMALS | {"dog": 6}, "dog is class 6, not one of 0 to 5; set dataset.classes"),
        (ANIMALS | {"dog": -1}, "dog is class -1, not one of 0 to 5"),
        (LIST[:5], "lists 5 classes; set dataset.classes=5, not 6"),
        ([*LIST[:5], "eel"], "lists eel twice"),
        ({"cat": "2"}, "from names to whole numbers, or from numbers to names"),
        ({"cat": True}, "from names to whole numbers"),
        ({}, "lists no classes"),
        (3, "it is a int"),
        ("nowhere.json", "no such file; give a .json, .txt or .csv file"),
        ("map.xml", "of no known kind"),
    ],
)
def test_a_map_that_does_not_fit_is_one_line(folder, given, said):
    with pytest.raises(UserError, match=said) as caught:
        replace(folder, class_map=given).split("test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("map.json", "{", "cannot be read"),
        ("map.json", '{"cat": 1, "cat": 2}', "a key stands in it twice"),
        ("map.json", "[" * 5000, "cannot be read"),
        ("map.txt", "n02119789 1 kit_fox\n", "write a .csv with the columns name and class"),
        ("map.csv", "cat,2\n", "needs a column name and a column class"),
        ("map.csv", "name,class\ncat,two\n", "line 2: 'two' is no class number"),
    ],
)
def test_a_damaged_map_names_its_file(folder, tmp_path, name, content, said):
    path = written(tmp_path / name, content)
    with pytest.raises(UserError, match=f"{name}.*{said}"):
        replace(folder, class_map=path).split("test")


def test_bytes_that_are_no_text_are_refused(folder, tmp_path):
    (tmp_path / "map.txt").write_bytes(b"\xff\xfe\x00cat")
    with pytest.raises(UserError, match=r"map\.txt cannot be read"):
        replace(folder, class_map=str(tmp_path / "map.txt")).split("test")


def test_parts_with_other_classes_are_refused_without_a_map(folder, tmp_path, pictures, write_folder):
    write_folder(tmp_path / "set" / "train", {name: pictures(4) for name in ("cat", "dog", "fox")})
    data = replace(folder, classes=3)
    with pytest.raises(
        UserError, match=r"have other class folders \(eel, fox\).*rename them, or give dataset.class_map"
    ):
        data.split("test")
    assert number(replace(folder, class_map=LIST).split("train")) == {"cat": 2, "dog": 5, "fox": 1}


def parquet(folder, png, pictures, labels):
    table = pa.table({"image": [png(image) for image in pictures(len(labels))], "label": labels})
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "test.parquet")
    return Parquet(path=str(folder), classes=6, **SIZE)


def test_labels_that_are_texts_have_the_numbers_of_the_map(tmp_path, png, pictures):
    data = parquet(tmp_path, png, pictures, ["dog", "cat", "dog"])
    with pytest.raises(UserError, match=r"holds texts, such as dog, not class numbers; give dataset\.class_map=FILE"):
        data.split("test")
    split = replace(data, class_map=ANIMALS).split("test")
    assert split.read(slice(None)).y.tolist() == [5, 2, 5]
    assert split.digest() == replace(data, class_map=LIST).split("test").digest()
    assert split.digest() != replace(data, class_map=ANIMALS | {"cat": 3}).split("test").digest()
    with pytest.raises(UserError, match="column label: dog is not in"):
        replace(data, class_map={"cat": 0}).split("test")


def test_numbers_have_names_or_other_numbers(tmp_path, png, pictures):
    data = parquet(tmp_path, png, pictures, [1, 6, 3])
    with pytest.raises(UserError, match="has label 6, not one of 0 to 5"):
        data.split("test")
    counted = replace(data, class_map={str(number): number - 1 for number in range(1, 7)})
    assert counted.split("test").read(slice(None)).y.tolist() == [0, 5, 2]
    named = replace(parquet(tmp_path, png, pictures, [1, 5, 3]), class_map=LIST)
    plain = replace(named, class_map=None)
    assert named.split("test").read(slice(None)).y.tolist() == [1, 5, 3]
    assert named.split("test").digest() == plain.split("test").digest()
    assert (named.class_names()[5], plain.class_names()) == ("dog", ())


def test_labels_from_1_are_told(tmp_path, png, pictures):
    with pytest.raises(UserError, match="the labels go from 1 to 6: subtract 1"):
        parquet(tmp_path, png, pictures, [1, 6, 3]).split("test")


def test_every_wordnet_id_has_one_class():
    classes = ClassMap.of("imagenet", 1000)
    assert list(classes.numbers) == sorted(classes.numbers)
    assert np.array_equal(list(classes.numbers.values()), range(1000))
    with pytest.raises(UserError, match=r"lists 1000 classes; set dataset\.classes=1000, not 1001"):
        ClassMap.of("imagenet", 1001)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([(None, 0)], r"dataset is a list, which has no name, .*; for items \(image, label\) take dataset=torch"),
        (3, "dataset is a int, .*; return a subclass of gauntlet.data.image_dataset.ImageSet"),
    ],
)
def test_what_is_no_data_set_is_one_line(made, said):
    with pytest.raises(UserError, match=said):
        data_set(made)


def test_empty_folders_are_told(folder, tmp_path, png, pictures):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none is empty; check dataset.path"):
        replace(folder, path=str(tmp_path), test="none").split("test")
    (tmp_path / "none" / "1.png").write_bytes(png(pictures(1)[0]))
    with pytest.raises(UserError, match="1 images but no class folders"):
        replace(folder, path=str(tmp_path), test="none").split("test")
    with pytest.raises(UserError, match=r"set dataset.classes=3, not 6, or say with dataset.class_map which of them"):
        folder.split("test")

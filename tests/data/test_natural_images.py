"""ImageNet-A, -R, -V2 and ObjectNet as published, and the classes that a network is judged on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gauntlet.data.class_groups import ClassGroups
from gauntlet.data.class_map import IMAGENET, ClassMap
from gauntlet.data.natural_images import ImageNetA, ImageNetR, ImageNetV2, ObjectNet
from gauntlet.errors import UserError
from gauntlet.models.restricted import Restricted

SMALL = {"size": 4, "resize": None}
MAPPINGS = {
    "folder_to_objectnet_label.json": {"alarm_clock": "Alarm clock", "banana": "Banana", "blender": "Blender"},
    "objectnet_to_imagenet_1k.json": {"Alarm clock": "analog clock; digital clock", "Banana": "banana"},
    "pytorch_to_imagenet_2012_id.json": {"409": 1, "530": 2, "954": 0},
}


def picture(path, value, size=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)


@pytest.fixture
def objectnet(tmp_path):
    """Two classes that are ImageNet's and one that is not; the middle of each picture has a frame of another color."""
    for name, value in MAPPINGS.items():
        (tmp_path / "mappings").mkdir(exist_ok=True)
        (tmp_path / "mappings" / name).write_text(json.dumps(value))
    (tmp_path / "mappings" / "imagenet_to_label_2012_v2").write_text("banana\nanalog clock\ndigital clock\n")
    for number, name in enumerate(("alarm_clock", "banana", "blender")):
        pixels = np.full((8, 8, 3), 255, np.uint8)
        pixels[2:6, 2:6] = number
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "0.png")
    return ObjectNet(
        path=str(tmp_path / "images"), class_map=str(tmp_path / "mappings"), classes=2, **SMALL
    )  # fmt: skip


@pytest.mark.parametrize("kind", [ImageNetA, ImageNetR])
def test_folders_of_wordnet_ids_are_the_classes_of_the_subset(kind, tmp_path):
    groups, whole = ClassGroups.of(kind.class_map), ClassMap.of(IMAGENET, 1000)
    for wnid in groups.names:
        (tmp_path / wnid).mkdir()
    picture(tmp_path / groups.names[7] / "0.png", 3)
    data = kind(path=str(tmp_path), **SMALL)
    batch = data.split("test").read(slice(None))
    assert batch.y.tolist() == [7]
    assert groups.columns[7] == (whole.numbers[groups.names[7]],)
    assert data.class_names()[7] == whole.titles[groups.columns[7][0]]
    assert len({column for (column,) in groups.columns}) == 200
    (tmp_path / groups.names[0]).rmdir()
    with pytest.raises(UserError, match="lacks 1 of the 200 class folders"):
        data.split("test")


def test_folders_of_numbers_are_classes_by_number(tmp_path):
    for number in range(12):
        picture(tmp_path / str(number) / "0.png", number)
    split = ImageNetV2(path=str(tmp_path), classes=12, **SMALL).split("test")
    batch = split.read(slice(None))
    assert (255 * batch.x[:, 0, 0, 0]).round().tolist() == batch.y.tolist()


def test_objectnet_has_its_border_cut_off_and_leaves_out_what_is_not_of_imagenet(objectnet):
    batch = objectnet.split("test").read(slice(None))
    assert sorted(batch.y.tolist()) == [0, 1]
    assert (255 * batch.x.amax((1, 2, 3))).round().tolist() == batch.y.tolist()
    assert objectnet.class_names() == ("Alarm clock", "Banana")
    assert (
        objectnet.split("test").digest()
        != ObjectNet(path=objectnet.path, class_map=objectnet.class_map, classes=2, size=8, resize=None, border=0)
        .split("test")
        .digest()
    )


def test_a_network_is_judged_on_the_largest_logit_of_each_group(objectnet):
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 1000))
    judged = Restricted(network, objectnet.class_map)
    x = torch.rand(5, 3, 4, 4)
    logits = network(x)
    wanted = torch.stack([logits[:, [409, 530]].amax(1), logits[:, 954]], 1)
    assert torch.equal(judged(x), wanted)
    assert set(judged.state_dict()) == {f"model.{name}" for name in network.state_dict()}
    own, other = torch.autograd.grad(judged(x).sum(), network[1].bias)[0], torch.zeros(1000)
    other[954] = 5
    first = (logits[:, 409] > logits[:, 530]).sum()
    other[409], other[530] = first, 5 - first
    assert torch.equal(own, other)
    with pytest.raises(UserError, match=r"gives 10 classes, and .* is about 1000"):
        Restricted(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), objectnet.class_map)(x)


def test_groups_of_ones_own_come_from_a_file(tmp_path):
    file = tmp_path / "groups.json"
    file.write_text(json.dumps({"dog": [151, 152], "cat": 281}))
    assert ClassGroups.of(str(file)).columns == ((281,), (151, 152))
    for content, match in (
        ('{"dog": [1], "cat": [1]}', "class 1 of the network stands for cat and for dog"),
        ('{"dog": []}', "no list of whole numbers"),
        ('{"dog": 1}', "fewer than two classes"),
        ("{", "groups.json is damaged"),
        ("[]", "groups.json holds no mapping"),
        ('{"dog": NaN}', "NaN is no number of JSON"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=match):
            ClassGroups.of(str(file))


def test_mistakes_are_said_in_one_line(objectnet, tmp_path):
    for changes, match in (
        ({"class_map": None}, "class_map=null says no classes"),
        ({"class_map": "nothing"}, "says no groups of classes"),
        ({"class_map": str(tmp_path / "images")}, "no such file"),
        ({"classes": 3}, "set dataset.classes=2, not 3"),
        ({"border": 4}, "nothing is left of 8x8 pixels"),
        ({"path": str(tmp_path / "gone")}, "is not a folder"),
    ):
        fields = {"path": objectnet.path, "class_map": objectnet.class_map, "classes": 2, **SMALL, **changes}
        with pytest.raises(UserError, match=match):
            ObjectNet(**fields).split("test").read(slice(None))
    with pytest.raises(UserError, match="has test images alone, no train part"):
        objectnet.split("train")

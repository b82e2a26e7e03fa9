"""Every kind of model on every kind of data: the logits are those of the model's own forward on the same images."""

import io
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from gauntlet.commands.command_line import by_file
from gauntlet.config.shipped import CONF
from gauntlet.jobs.setup import load, request
from gauntlet.models.wrapped import logits_of
from gauntlet.threat_model.rng import Rng
from tests.models import their_networks as theirs
from tests.models.test_checkpoint_layouts import TheirWideResNet, trained_network

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, at import and at conversion

COUNT = 20
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, theirs.SIZE, theirs.SIZE, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % theirs.CLASSES
CONSTANTS = [f"model.mean=[{','.join(map(str, theirs.MEAN))}]", f"model.std=[{','.join(map(str, theirs.STD))}]"]
INCLUDED = ["checkpoint=included"]


def normalized(x):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (theirs.MEAN, theirs.STD))
    return (x - mean) / std


def png(levels):
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "png")
    return file.getvalue()


# Each writes the images and returns the words that name them.


def arrays(folder):
    np.savez(folder / "data.npz", x=PIXELS, y=LABELS)
    return ["dataset=arrays", f"dataset.path={folder / 'data.npz'}"]


def parquet(folder):
    images = [{"bytes": png(levels), "path": None} for levels in PIXELS]
    pq.write_table(pa.table({"image": images, "label": LABELS}), folder / "test.parquet")
    return ["dataset=parquet", f"dataset.path={folder}"]


def imagefolder(folder):
    for number, (levels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        place = folder / "images" / "test" / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02d}.png").write_bytes(png(levels))
    return ["dataset=imagefolder", f"dataset.path={folder / 'images'}"]


def huggingface(folder):
    place = folder / "arrow" / "test"
    place.mkdir(parents=True)
    images = pa.array([{"bytes": png(levels), "path": None} for levels in PIXELS])
    table = pa.table({"image": images, "label": pa.array(LABELS)})
    with (
        pa.OSFile(str(place / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    return ["dataset=huggingface", f"dataset.path={folder / 'arrow'}"]


DATA = {function.__name__: function for function in (arrays, parquet, imagefolder, huggingface)}


# Each saves a network and returns it as a function of pixels in [0, 1], with the words that name it.


def module(folder):
    (folder / "net_of_matrix.py").write_text(
        "from tests.models.their_networks import small\n\n\ndef make():\n    return small(5)\n"
    )
    network = theirs.small(5)
    words = [f"model={folder / 'net_of_matrix.py'}:make", *CONSTANTS, *INCLUDED]
    return lambda x: network(normalized(x)), words


def timm(folder):
    pytest.importorskip("timm", reason="timm is not installed: pip install '.[timm]'")
    network = theirs.timm_folder(folder / "timm")
    words = ["model=timm", f"model.name=local-dir:{folder / 'timm'}", "model.weights=pretrained", *INCLUDED]
    return lambda x: network(normalized(x)), words


def transformers(folder):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[huggingface]'")
    network = theirs.huggingface_folder(folder / "hf")
    return lambda x: network(pixel_values=normalized(x)), [
        "model=huggingface",
        f"model.name={folder / 'hf'}",
        *INCLUDED,
    ]


def torchvision(folder):
    from torchvision.models import mobilenet_v3_small

    network = trained_network(lambda: mobilenet_v3_small(num_classes=theirs.CLASSES))
    torch.save({"model": network.state_dict(), "epoch": 3}, folder / "tv.pth")
    words = ["model=torchvision", "model.name=mobilenet_v3_small", *CONSTANTS, f"checkpoint={folder / 'tv.pth'}"]
    return lambda x: network(normalized(x)), words


def onnx(folder):
    pytest.importorskip("onnx2torch", reason="onnx2torch is not installed: pip install '.[onnx]'")
    network = theirs.onnx_file(folder / "net.onnx")
    return lambda x: network(normalized(x)), ["model=onnx", f"model.path={folder / 'net.onnx'}", *CONSTANTS, *INCLUDED]


def torchscript(folder):
    path = folder / "net.ts"
    network = theirs.torchscript_file(path)
    words = ["model=torchscript", f"model.path={path}", f"trusted_packages=[{path}]", *CONSTANTS, *INCLUDED]
    return lambda x: network(normalized(x)), words


def robustbench_layout(folder):
    network = trained_network(lambda: TheirWideResNet(unused=True))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "wrn.pt")
    words = ["model=wrn", "model.depth=16", "model.width=2", "model.mean=[0]", "model.std=[1]"]
    return network, [*words, f"checkpoint={folder / 'wrn.pt'}"]


MODELS = {
    function.__name__: function
    for function in (module, timm, transformers, torchvision, onnx, torchscript, robustbench_layout)
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", MODELS)
def test_logits_are_those_of_the_models_own_forward(tmp_path, model, data):
    own, words = MODELS[model](tmp_path)
    words += [*DATA[data](tmp_path), f"dataset.classes={theirs.CLASSES}", f"dataset.size={theirs.SIZE}"]
    words += ["attack=fgsm", "runtime.device=cpu", "runtime.progress=false", f"runs_dir={tmp_path / 'runs'}"]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", by_file(words))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setup = load(request(cfg, {"model": model, "defense": "none"}, ""), fold=False)
    batch = setup.split.read(slice(0, COUNT))
    raw = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    order = [int(np.flatnonzero([torch.equal(image, other) for other in raw])[0]) for image in batch.x]
    assert sorted(order) == list(range(COUNT))  # the images themselves, to the last level
    assert batch.y.tolist() == LABELS[order].tolist()
    with torch.no_grad():
        logits = setup.target.victim.predict(batch.x, Rng(0, batch.ids, "test"))
        assert (logits - logits_of(own(raw[order]))).abs().max() < 1e-5
    assert logits.std() > 1e-3  # a network that says something

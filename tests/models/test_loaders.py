"""Networks of timm, transformers, ONNX, TorchScript, open_clip and RobustBench, preprocessed as their authors say."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gauntlet.errors import UserError
from gauntlet.models import model_hub
from gauntlet.models.author_preprocessing import Declared
from gauntlet.models.huggingface_model import HuggingFaceModel, declared_by
from gauntlet.models.onnx_model import OnnxModel
from gauntlet.models.open_clip_model import OpenClipModel
from gauntlet.models.optional import needed
from gauntlet.models.robustbench_model import RobustBenchModel
from gauntlet.models.timm_model import TimmModel
from gauntlet.models.torchscript_model import TorchScriptModel
from tests.models import their_networks as theirs

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, at import and at conversion


def images(size=theirs.SIZE, count=4):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def normalized(x):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (theirs.MEAN, theirs.STD))
    return (x - mean) / std


def apart(one, other):
    return float((one - other).detach().abs().max())


def photograph(size):
    """An image of whole levels, as a tensor and as Pillow has it."""
    levels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return torch.from_numpy(levels).permute(2, 0, 1)[None] / 255, Image.fromarray(levels)


def test_declared_preprocessing_for_images_of_every_size():
    declared = Declared("it", (0.1,), (0.2,), size=224, resize=256, interpolation="bicubic")
    plain = {"mean": (0.1,), "std": (0.2,), "interpolation": "bicubic"}
    assert declared.for_images(224, {}) == {**plain, "resize": None, "crop": None}
    assert declared.for_images(299, {}) == {**plain, "resize": 256, "crop": 224}
    assert declared.for_images(32, {"resize": 224}) == {**plain, "resize": 224, "crop": None}
    assert declared.for_images(32, {"resize": 0})["resize"] is None
    assert declared.for_images(224, {"mean": [0.5]})["mean"] == [0.5]
    assert "mean as given" in declared.text({"mean": [0.5], "std": None})
    with pytest.raises(UserError, match="lanczos, which has no gradient"):
        Declared("it", (0.1,), (0.2,), 32, 32, "lanczos").for_images(32, {})


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm, .*pip install 'gauntlet-robustness\[timm\]'"):
        needed("timm", "timm", "timm")


def test_a_hub_that_does_not_answer_is_not_waited_for():
    assert not model_hub.answers("http://localhost:1")
    assert not model_hub.answers("nonsense")


class TestTimm:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("timm", reason="timm is not installed: pip install '.[timm]'")

    def test_a_folder_gives_the_logits_of_the_network(self, tmp_path):
        network = theirs.timm_folder(tmp_path / "net")
        model = TimmModel(f"local-dir:{tmp_path / 'net'}", 10, size=32, weights="pretrained").eval()
        assert apart(model(images()), network(normalized(images()))) < 1e-5
        assert model.preprocessing.startswith("mean [0.5, 0.4, 0.3], std [0.2, 0.25, 0.3] (pretrained_cfg of ")

    def test_other_images_are_resized_and_cropped_as_declared(self, tmp_path):
        from timm.data import create_transform, resolve_model_data_config

        network = theirs.timm_folder(tmp_path / "net")
        model = TimmModel(f"local-dir:{tmp_path / 'net'}", 10, size=60, weights="pretrained").eval()
        assert (model.side, model.crop, model.interpolation) == (40, 32, "bicubic")
        x, pillow = photograph(60)
        wanted = create_transform(**resolve_model_data_config(model.model), is_training=False)(pillow)[None]
        seen = []
        model.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(x)
        shift = (seen[0] - wanted).abs()
        assert float(shift.median()) < 0.02  # Pillow rounds to whole levels and clips
        assert apart(model(x), network(wanted)) < 0.05

    def test_weights_of_another_number_of_classes_are_refused(self, tmp_path):
        theirs.timm_folder(tmp_path / "net")
        with pytest.raises(UserError, match="are for 10 classes, the data set has 7"):
            TimmModel(f"local-dir:{tmp_path / 'net'}", 7, size=32, weights="pretrained")

    def test_names_and_places_that_do_not_exist_are_one_line(self, tmp_path, monkeypatch):
        with pytest.raises(UserError, match="did you mean resnet18"):
            TimmModel("resnet1", 10)
        with pytest.raises(UserError, match="timm cannot give local-dir"):
            TimmModel(f"local-dir:{tmp_path}", 10, weights="pretrained")
        with pytest.raises(UserError, match=r"model\.weights=DEFAULT is unknown"):
            TimmModel("resnet18", 10, weights="DEFAULT")

    def test_a_hub_without_network_is_one_line(self, monkeypatch):
        monkeypatch.setattr(model_hub, "answers", lambda address: False)
        with pytest.raises(UserError, match="check the network and the name, or give checkpoint=FILE"):
            TimmModel("hf_hub:nobody/nothing", 10, weights="pretrained")


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[huggingface]'")

    def test_a_folder_gives_the_logits_of_the_network(self, tmp_path):
        network = theirs.huggingface_folder(tmp_path / "net")
        model = HuggingFaceModel(str(tmp_path / "net"), 10, size=32).eval()
        assert apart(model(images()), network(pixel_values=normalized(images())).logits) < 1e-5
        assert "image processor of" in model.preprocessing

    def test_another_number_of_classes_is_refused(self, tmp_path):
        theirs.huggingface_folder(tmp_path / "net")
        with pytest.raises(UserError, match="is for 10 classes, the data set has 1000"):
            HuggingFaceModel(str(tmp_path / "net"), 1000, size=32)

    def test_a_folder_without_a_processor_or_none_at_all_is_one_line(self, tmp_path, monkeypatch):
        theirs.huggingface_folder(tmp_path / "net")
        (tmp_path / "net" / "preprocessor_config.json").unlink()
        with pytest.raises(UserError, match="give a local folder that save_pretrained wrote, the processor's too"):
            HuggingFaceModel(str(tmp_path / "net"), 10, size=32)
        with pytest.raises(UserError, match="there is no folder"):
            HuggingFaceModel("/nowhere/net", 10)
        monkeypatch.setattr(model_hub, "answers", lambda address: False)
        with pytest.raises(UserError, match="without network give a local folder"):
            HuggingFaceModel("nobody/nothing", 10)


SQUARE = {"height": 224, "width": 224}
PROCESSORS = {
    "ViT": ({"size": {"height": 224, "width": 224}, "resample": 2}, (224, 224, "bilinear")),
    "CLIP": (
        {"size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True, "crop_size": SQUARE},
        (224, 224, "bicubic"),
    ),
    "EfficientNet": (
        {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224, "resample": 0},
        (224, 256, "nearest"),
    ),
    "ConvNeXT": ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}, (224, 256, "bicubic")),
    "ConvNeXT at 384": ({"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3}, (384, 384, "bicubic")),
    "old, a number": ({"size": 224, "resample": 2}, (224, 224, "bilinear")),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROCESSORS)
def test_image_processors_say_size_crop_and_interpolation(kind):
    config, (size, resize, interpolation) = PROCESSORS[kind]
    declared = declared_by({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, **config}, "it")
    assert (declared.size, declared.resize, declared.interpolation) == (size, resize, interpolation)
    assert (declared.mean, declared.std) == ((0.5,) * 3, (0.25,) * 3)


def test_image_processors_that_scale_otherwise_or_not_at_all():
    size = {"size": 32}
    plain = declared_by({**size, "do_normalize": False}, "it")
    assert (plain.mean, plain.std) == ((0.0,), (1.0,))
    levels = declared_by({**size, "do_rescale": False, "do_normalize": False}, "it")
    assert levels.std == (1 / 255,)  # the network takes 0 to 255
    double = declared_by({**size, "rescale_factor": 2 / 255, "image_mean": [1.0], "image_std": [0.5]}, "it")
    assert double.mean == pytest.approx((0.5,))
    assert double.std == pytest.approx((0.25,))
    with pytest.raises(UserError, match="shifts pixels"):
        declared_by({**size, "rescale_offset": True}, "it")
    with pytest.raises(UserError, match="says no size"):
        declared_by({}, "it")
    with pytest.raises(UserError, match="they are square here"):
        declared_by({"size": {"height": 32, "width": 64}}, "it")


class TestOnnx:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("onnx2torch", reason="onnx2torch is not installed: pip install '.[onnx]'")

    @pytest.mark.parametrize("opset", [9, 13, 17])
    def test_a_file_gives_the_logits_of_the_network(self, tmp_path, opset):
        network = theirs.onnx_file(tmp_path / "net.onnx", opset)
        model = OnnxModel(str(tmp_path / "net.onnx"), 10, mean=theirs.MEAN, std=theirs.STD).eval()
        x = images().requires_grad_()
        logits = model(x)
        assert apart(logits, network(normalized(images()))) < 1e-5
        logits.sum().backward()
        assert x.grad.abs().sum() > 0

    def test_an_operator_that_cannot_be_converted_is_named(self, tmp_path):
        theirs.onnx_file(tmp_path / "net.onnx", odd="Hardmax")
        with pytest.raises(UserError, match=r"the operator Hardmax .*cannot be converted"):
            OnnxModel(str(tmp_path / "net.onnx"), 10)

    def test_what_does_not_fit_is_said(self, tmp_path):
        theirs.onnx_file(tmp_path / "net.onnx")
        with pytest.raises(UserError, match=r"gives outputs \[2, 10\] for 2 images; it must be logits \[2, 100\]"):
            OnnxModel(str(tmp_path / "net.onnx"), 100)
        (tmp_path / "bad.onnx").write_bytes(b"PK not a graph")
        with pytest.raises(UserError, match="no sound ONNX file"):
            OnnxModel(str(tmp_path / "bad.onnx"), 10)
        with pytest.raises(UserError, match="there is no file"):
            OnnxModel(str(tmp_path / "none.onnx"), 10)

    @pytest.mark.parametrize("name", ["vit_pgd_2_3_16", "vit_ibp_3_3_8"])
    def test_public_transformers_run_as_in_onnxruntime(self, shared, name):
        runtime = pytest.importorskip("onnxruntime")
        path = str(shared / "models" / "onnx" / f"{name}.onnx")
        session = runtime.InferenceSession(path)
        x = images(count=8)
        (wanted,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert apart(OnnxModel(path, 10).eval()(x), torch.from_numpy(wanted)) < 1e-4


class TestTorchScript:
    def test_an_archive_gives_the_logits_of_the_network(self, tmp_path):
        network = theirs.torchscript_file(tmp_path / "net.pt")
        model = TorchScriptModel(str(tmp_path / "net.pt"), mean=theirs.MEAN, std=theirs.STD).eval()
        assert apart(model(images()), network(normalized(images()))) < 1e-5

    def test_weights_alone_are_refused(self, tmp_path):
        torch.save(theirs.small().state_dict(), tmp_path / "w.pt")
        with pytest.raises(UserError, match=r"no TorchScript archive .*checkpoint=FILE"):
            TorchScriptModel(str(tmp_path / "w.pt"))


TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class TestOpenClip:
    @pytest.fixture
    def weights(self, tmp_path):
        """A file of a tiny CLIP model with random weights, and the model."""
        clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install '.[open_clip]'")
        (tmp_path / "tiny_clip.json").write_text(json.dumps(TINY_CLIP))
        clip.add_model_config(tmp_path / "tiny_clip.json")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = clip.create_model("tiny_clip").eval()
        torch.save(network.state_dict(), tmp_path / "clip.pt")
        return str(tmp_path / "clip.pt"), network

    def test_logits_are_scaled_cosines_with_the_prompts(self, weights):
        import open_clip

        file, network = weights
        labels = ["cat", "dog", "frog"]
        model = OpenClipModel(labels, 3, "tiny_clip", size=32, weights=file, prompts=["a {}.", "the {}"]).eval()
        x = images()
        mean, std = (torch.tensor(network.visual.preprocess_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
        tokens = open_clip.get_tokenizer("tiny_clip")
        with torch.no_grad():
            seen = nn.functional.normalize(network.encode_image((x - mean) / std), dim=-1)
            words = [network.encode_text(tokens([f"a {word}.", f"the {word}"])) for word in labels]
            text = torch.stack([nn.functional.normalize(each, dim=-1).mean(0) for each in words])
            wanted = network.logit_scale.exp() * seen @ nn.functional.normalize(text, dim=-1).T
            assert apart(model(x), wanted) < 1e-4
        assert "configuration of tiny_clip" in model.preprocessing

    def test_labels_come_from_a_file_and_must_fit(self, weights, tmp_path):
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
        assert OpenClipModel(str(tmp_path / "labels.txt"), 2, "tiny_clip", size=32, weights=weights[0])
        with pytest.raises(UserError, match="has 2 names, the data set 10 classes"):
            OpenClipModel(["cat", "dog"], 10, "tiny_clip", weights=weights[0])
        with pytest.raises(UserError, match=r"model\.weights is missing"):
            OpenClipModel(["cat", "dog"], 2, "tiny_clip")


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """A package with the two things of RobustBench that are used; the real one needs packages outside PyPI."""
    package, utils = ModuleType("robustbench"), ModuleType("robustbench.utils")
    package.__file__ = str(tmp_path / "robustbench" / "__init__.py")
    info = tmp_path / "robustbench" / "model_info" / "cifar10" / "Linf" / "Known.json"
    info.parent.mkdir(parents=True)
    info.write_text(json.dumps({"clean_acc": "89.69"}))
    networks = {"Known": theirs.small(), "Other": theirs.small()}
    utils.load_model = lambda model_name, model_dir, dataset, threat_model: networks[model_name]
    package.utils = utils
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    return SimpleNamespace(networks=networks)


def test_robustbench_gives_its_network_and_the_clean_accuracy_on_record(zoo):
    model = RobustBenchModel("Known").eval()
    assert torch.equal(model(images()), zoo.networks["Known"](images()))
    assert model.clean == {"cifar10": pytest.approx(0.8969)}
    assert RobustBenchModel("Other").clean == {}
    with pytest.raises(UserError, match="has no Nobody for cifar10 and Linf"):
        RobustBenchModel("Nobody")
    with pytest.raises(UserError, match=r"model\.threat=linf is unknown"):
        RobustBenchModel("Known", threat="linf")

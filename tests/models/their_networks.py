"""Small networks with random weights, saved as other projects save theirs, for tests of what loads them."""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIZE, CLASSES = 32, 10


def small(seed: int = 0) -> nn.Module:
    """A convolutional network whose batch norms have statistics of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        )
        network(torch.rand(8, 3, SIZE, SIZE))
    return network.eval()


def timm_folder(folder: Path) -> nn.Module:
    """Save a network of timm with the preprocessing that its author declares, and return it."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=CLASSES).eval()
    folder.mkdir()
    constants = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "crop_pct": 0.8, "input_size": [3, SIZE, SIZE]}
    config = {"architecture": "test_resnet", "num_classes": CLASSES, "num_features": network.num_features}
    config["pretrained_cfg"] = {"tag": "ours", "num_classes": CLASSES, **constants}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return network


def huggingface_folder(folder: Path, **processor: object) -> nn.Module:
    """Save a classifier of transformers and its image processor, and return it."""
    import transformers

    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=CLASSES
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(folder)
    options = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIZE, "width": SIZE},
        "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(MEAN), "image_std": list(STD), **processor,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(options))
    return network


def torchscript_file(path: Path) -> nn.Module:
    """Save a TorchScript archive, and return the network."""
    network = small(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.rand(2, 3, SIZE, SIZE)), str(path))
    return network


def onnx_file(path: Path, opset: int = 17, odd: str = "") -> nn.Module:
    """Write `small` as an ONNX file, and return it. odd: an operator to put before the last layer."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    network = small(2)
    first, norm, _, second, _, _, _, last = network
    tensors = {
        "w1": first.weight, "g": norm.weight, "b": norm.bias, "m": norm.running_mean, "v": norm.running_var,
        "w2": second.weight, "b2": second.bias, "w3": last.weight, "b3": last.bias,
    }  # fmt: skip
    convolution = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], **convolution),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], epsilon=norm.eps),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], **convolution),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        *([helper.make_node(odd, ["f"], ["o"])] if odd else []),
        helper.make_node("Gemm", ["o" if odd else "f", "w3", "b3"], ["z"], transB=1),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", CLASSES])
    held = [numpy_helper.from_array(t.detach().numpy().astype(np.float32), name) for name, t in tensors.items()]
    graph = helper.make_graph(nodes, "small", [image], [logits], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return network

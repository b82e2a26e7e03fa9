"""What verifiers of other projects get, and what they answer: read back by readers of our own."""

import gzip

import numpy as np
import pytest
import torch
from torch import nn

from gauntlet.certification.exchange.onnx_export import onnx_network
from gauntlet.certification.exchange.verdicts import property_name, read_results
from gauntlet.certification.exchange.vnnlib import Property, counterexample
from gauntlet.errors import UserError
from tests.certification.onnx_reader import evaluate

KEY = "0123456789ab"


class Residual(nn.Module):
    """Every operation that the writer knows: normalization, groups, strides, batch norm, sums, pools, constants."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.last = nn.Linear(16, 3, bias=False)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = (x - 0.4) / torch.tensor([0.2, 0.3]).reshape(2, 1, 1)
        x = self.norm(self.first(x)).relu()
        x = nn.functional.avg_pool2d(x + self.second(x).relu(), 2)
        return 1 - self.last(x.flatten(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def encoded(network):
    return onnx_network(network, (network,), torch.rand(4, 2, 8, 8))


def test_the_file_computes_what_the_network_does(network, encoded):
    x = torch.rand(5, 2, 8, 8)
    with torch.no_grad():
        again = torch.cat([evaluate(encoded, image[None]) for image in x])
        torch.testing.assert_close(again, network(x), atol=1e-5, rtol=1e-5)


def test_the_runtime_of_onnx_agrees(network, encoded):
    pytest.importorskip("onnx", reason="onnx is optional").checker.check_model(encoded, full_check=True)
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is optional")
    x = torch.rand(1, 2, 8, 8)
    (scores,) = runtime.InferenceSession(encoded).run(None, {"input": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(scores, network(x).numpy(), atol=1e-5)


def test_a_network_that_bounds_cannot_read_needs_the_exporter_of_torch():
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.LogSigmoid(), nn.Linear(4, 3)).eval()
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"LogSigmoid.*gauntlet-robustness\[onnx\]"):
            onnx_network(net, (net,), torch.rand(2, 2, 2, 2))
    else:
        assert b"Sigmoid" in onnx_network(net, (net,), torch.rand(2, 2, 2, 2))


def test_a_network_that_branches_on_its_input_is_not_written():
    layer = nn.Linear(8, 3)

    def forward(x):
        return layer(x.flatten(1)) * (1 if len(x) == 2 else -1)  # images are traced two at a time

    with pytest.raises(UserError, match="differs from the network"):
        onnx_network(forward, (layer,), torch.rand(4, 2, 2, 2))


def test_a_property_reads_back_to_the_last_bit_and_decides_random_points():
    """A linear network of two classes in two pixels: the counterexamples are a half-plane."""
    rng = np.random.default_rng(0)
    lower, upper = np.array([0.1, 1e-9]), np.array([0.7, 1 / 3])
    asked = Property(lower, upper, label=0, classes=2)
    again = Property.read(asked.text("sample 3\nlabel 0"))
    assert np.array_equal(again.lower, lower)
    assert np.array_equal(again.upper, upper)
    assert (again.label, again.classes) == (0, 2)
    x = rng.uniform(0, 1, (2000, 2))
    scores = np.stack([x @ [1.0, 0.0], x @ [0.0, 2.0]], 1)
    expected = (x >= lower).all(1) & (x <= upper).all(1) & (2 * x[:, 1] >= x[:, 0])
    assert np.array_equal(again.violated(x, scores), expected)
    assert 0 < expected.sum() < ((x >= lower).all(1) & (x <= upper).all(1)).sum()
    tie = np.array([[0.2, 0.1]])
    assert again.violated(tie, np.array([[1.0, 1.0]])).all()  # the label must be the strict maximum
    with pytest.raises(UserError, match="does not ask"):
        Property.read("(assert (<= X_0 1.0))")


def answers(folder, *lines, files=()):
    for name, text in dict(files).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return read_results(folder / "results.csv", KEY, 2)


def test_answers_are_read_in_the_layouts_of_others(tmp_path):
    names = [property_name(KEY, sample) for sample in range(6)]
    found = answers(
        tmp_path,
        "category,onnx,vnnlib,prepare,result,seconds",
        f"digits,./onnx/network.onnx,./vnnlib/{names[0]},1.5,unsat,7.25",
        f"{names[1]},holds",
        f"digits,./onnx/network.onnx,vnnlib/{names[2]}.gz,1.5,sat,0.5",
        f"{names[3]},violated,found.txt",
        "",
        f"{names[4]},timeout",
        f"{names[5]},unknown,100",
        files={
            f"counterexamples/network_{KEY}_2.counterexample.gz": "sat\n((X_0 0.25)\n(X_1 1e-3)\n(Y_0 1.0))",
            "found.txt": "((X_1  .5) (X_0 1))",
        },
    )
    assert [each.word for each in found] == ["proven", "proven", "violated", "violated", "open", "open"]
    assert [each.sample for each in found] == list(range(6))
    assert found[2].image.tolist() == [0.25, 1e-3]
    assert found[3].image.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("a,b", "names no .vnnlib"),
        (f"{KEY[::-1]}_0.vnnlib,unsat", "another model, data set or threat"),
        (f"{KEY}_0.vnnlib,perhaps", "no answer"),
        (f"{KEY}_0.vnnlib,sat,unsat", "two answers"),
        (f"{KEY}_0.vnnlib,sat", f"beside the table as {KEY}_0.counterexample"),
        (f"{KEY}_9.vnnlib,timeout", "sample 9 is proven in another line"),
        (f"{KEY}_0.vnnlib,sat,short.txt", "1 values"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, line, cause):
    with pytest.raises(UserError, match=f"line 2.*{cause}"):
        answers(tmp_path, f"{KEY}_9.vnnlib,unsat", line, files={"short.txt": "((X_0 1))"})


def test_a_counterexample_needs_every_pixel_once():
    with pytest.raises(UserError, match="1 values"):
        counterexample("((X_0 0.5))", 2)
    with pytest.raises(UserError, match="could not convert"):
        counterexample("((X_0 half) (X_1 1))", 2)

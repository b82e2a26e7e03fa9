"""Each slip of a Python caller is one line that names the remedy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gauntlet import InputError, Threat, UserError, evaluate
from gauntlet.api.composition import Composition
from gauntlet.api.subject import add_images

X, Y = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])
HOLED = X.clone()
HOLED[2, 0, 0, 0] = torch.nan

IMAGES = {
    "0..255": (X * 255, Y, "divide by 255"),
    "a little above 1": (X * 1.5, Y, r"bring them into \[0, 1\]"),
    "normalized": ((X - 0.5) / 0.25, Y, "put the normalization into the model"),
    "NHWC": (X.permute(0, 2, 3, 1), Y, r"give x\.permute\(0, 3, 1, 2\)"),
    "grey without channels": (X[:, 0], Y, r"give x\[:, None\]"),
    "one image": (X[0, 0], Y, r"images are \[n, C, H, W\]"),
    "uint8": ((X * 255).byte(), Y, "x has type uint8.*give x / 255"),
    "two channels": (X[:, :2], Y, "1 or 3 channels"),
    "oblong": (X[:, :, :4], Y, "square"),
    "NaN": (HOLED, Y, "NaN or infinite pixels, first in image 2"),
    "empty": (X[:0], Y[:0], "holds no images"),
    "fewer labels": (X, Y[:3], "4 images and y 3 labels"),
    "one-hot labels": (X, nn.functional.one_hot(Y), r"give y\.argmax\(1\)"),
    "a column of labels": (X, Y[:, None], r"give y\.flatten\(\)"),
    "float labels": (X, Y.float(), r"give y\.long\(\)"),
    "no labels": (X, None, "y is missing"),
    "text": ([["a"]], Y, "x is a list"),
    "labels twice": (TensorDataset(X, Y), Y, "leave y out"),
    "images alone in a set": (TensorDataset(X), None, "holds|gives"),
    "an empty set": (TensorDataset(X[:0], Y[:0]), None, "holds no images"),
    "sizes": ([(X[0], 0), (X[1, :, :4, :4], 1)], None, "."),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_and_labels_that_cannot_be_are_named(case):
    x, y, line = IMAGES[case]
    with pytest.raises(InputError, match=line) as caught:
        add_images(Composition(), x, y, None, None)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_fit_images_pass_as_they_are():
    found = add_images(Composition(), X.numpy().astype(np.float64), Y.numpy().astype(np.uint8), None, None)
    assert found.pixels.dtype == np.float32
    assert torch.equal(torch.from_numpy(found.pixels).permute(0, 3, 1, 2), X)
    assert found.labels.tolist() == Y.tolist()


class Net(nn.Module):
    def __init__(self, output=lambda logits: logits):
        super().__init__()
        self.flat = nn.Linear(3 * 8 * 8, 3)
        self.output = output
        self.eval()

    def forward(self, x):
        return self.output(self.flat(x.flatten(1)))


MODELS = {
    "a dict without logits": (Net(lambda z: {"scores": z, "loss": z.sum()}), X, Y, "a dict with scores, loss"),
    "a class": (Net, X, Y, "model is the class Net"),
    "a number": (3, X, Y, "model is a int"),
    "one score": (Net(lambda z: z[:, 0]), X, Y, r"return logits \[4, classes\]"),
    "another size": (Net(), torch.rand(4, 3, 4, 4), Y, "cannot take images of shape"),
    "labels from 1": (Net(), X, Y + 1, "give y - 1"),
    "too many classes": (Net(), X, Y + 5, "number the classes"),
    "negative labels": (Net(), X, Y - 1, "labels go from -1 to 1"),
    "NaN scores": (Net(lambda z: z * torch.nan), X, Y, "NaN or infinite logits"),
    "weights of a recipe on images": ("trades", X, Y, r"evaluate\('trades', 'digits'\)"),
    "an unknown defense": ("tradez", "digits", None, r"did you mean trades\?"),
    "an unknown set": (Net(), "digitz", None, r"did you mean digits\?"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_evaluated_are_named(case):
    model, x, y, line = MODELS[case]
    with pytest.raises(UserError, match=line) as caught:
        evaluate(model, x, y, threat=Threat("linf", "8/255"), attack="fgsm")
    assert "\n" not in str(caught.value)


ARGUMENTS = {
    "no threat": ({}, "threat is missing"),
    "half a threat": ({"norm": "linf"}, "threat is missing"),
    "two threats": ({"threat": Threat("l2", 1.0), "eps": 1}, "leave norm and eps out"),
    "another threat": ({"threat": "linf"}, "give gauntlet.Threat"),
    "an unknown norm": ({"norm": "l3", "eps": 1}, "there is no threat=l3"),
    "an unknown attack": ({"norm": "linf", "eps": 0.1, "attack": "pgdd"}, r"did you mean pgd\?"),
    "an unknown option": ({"norm": "linf", "eps": 0.1, "attack": "pgd", "setps": 1}, r"did you mean steps\?"),
    "a wrong type": ({"norm": "linf", "eps": 0.1, "attack": "pgd", "steps": "many"}, "takes a whole number"),
    "an unknown protocol": ({"norm": "linf", "eps": 0.1, "protocol": "votes"}, r"did you mean vote\?"),
    "an unknown override": ({"norm": "linf", "eps": 0.1, "overrides": ["runtime.thread=2"]}, "runtime.threads"),
    "wrong classes": ({"norm": "linf", "eps": 0.1, "classes": 4}, "leave classes out"),
    "eps of 8": ({"norm": "linf", "eps": 8}, "/255"),
    "no device": ({"norm": "linf", "eps": 0.1, "device": "cuda:77"}, "device"),
    "no limit": ({"norm": "linf", "eps": 0.1, "limit": 0}, "limit"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_cannot_be_are_named(case):
    given, line = ARGUMENTS[case]
    with pytest.raises(UserError, match=line) as caught:
        evaluate(Net(), X, Y, **given)
    assert "\n" not in str(caught.value)

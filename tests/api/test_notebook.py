"""What a notebook shows of a result."""

import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import nn

from gauntlet import Threat, evaluate
from gauntlet.api.notebook import pictures_html, table_html


def test_names_stay_text() -> None:
    text = table_html("<b>", ("<i>",), [("<script>", "1")])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "&lt;b&gt;" in text


def test_pictures_have_one_scale() -> None:
    x = np.full((1, 2, 2), 0.5, np.float32)
    text = pictures_html([("one", x, x + np.float32(0.1)), ("two", x, x - np.float32(0.05))])
    drawn = [np.asarray(Image.open(BytesIO(b64decode(each)))) for each in re.findall(r"base64,([^']+)'", text)]
    assert [int(image[0, 0]) for image in drawn] == [128, 153, 255, 128, 115, 64]
    assert "a change of 0.1)" in text
    assert pictures_html([]) == ""


def test_a_result_shows_its_stages_and_the_images_that_were_broken() -> None:
    """Of two classes by the mean: every image at 0.52 is broken by steps of 0.05, those at 0.9 are not."""
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0] * 4, [1.0] * 4]))
        linear.bias.copy_(torch.tensor([2.0, -2.0]))
    model = nn.Sequential(nn.Flatten(), linear)
    x = torch.full((4, 1, 2, 2), 0.52)
    x[2:] = 0.9
    result = evaluate(model.eval(), x, torch.ones(4, dtype=torch.long), threat=Threat("linf", 0.05), attack="fgsm")
    text = result._repr_html_()
    assert "robust accuracy" in text
    assert (
        "<th scope='row'>fgsm/true</th><td style='text-align:right'>4</td><td style='text-align:right'>2</td>" in text
    )
    assert text.count("<img") == 2 * 3
    assert "1 → 0, fgsm/true" in text

"""Local intrinsic dimension: points uniform in a ball have that of the ball, and outliers are left out."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gauntlet.commands.intrinsic_dimension import dimensions, given, main
from gauntlet.data.digits import Digits
from gauntlet.data.nearest_neighbors import nearest_distances
from gauntlet.errors import UserError
from gauntlet.metrics.intrinsic_dimension import NearMedian, intrinsic_dimension
from gauntlet.models.embedding import Embedding
from gauntlet.models.small_cnn import SmallCNN

CPU = torch.device("cpu")


@pytest.mark.parametrize("dimensions", [1, 3, 20])
def test_distances_at_the_quantiles_of_a_ball_have_the_closed_form(dimensions):
    k = 50
    radii = (np.arange(1, k + 1) / k) ** (1 / dimensions)
    wanted = dimensions * k / (k * math.log(k) - math.lgamma(k + 1))
    assert intrinsic_dimension(3.7 * radii[None]) == pytest.approx([wanted])


def test_points_that_are_uniform_in_a_ball_have_its_dimension_whatever_the_space_around():
    rng, k = np.random.default_rng(0), 200
    for inside in (2, 6):
        direction = rng.normal(size=(400, k, inside))
        points = direction / np.linalg.norm(direction, axis=2, keepdims=True) * rng.random((400, k, 1)) ** (1 / inside)
        frame = np.linalg.qr(rng.normal(size=(30, inside)))[0]
        found = intrinsic_dimension(np.sort(np.linalg.norm(points @ frame.T, axis=2), 1))
        wanted = inside * k / (k - 2)
        assert abs(found.mean() - wanted) < 4 * wanted / math.sqrt(400 * (k - 3))


def test_copies_say_nothing():
    distances = np.array([[0.0, 0.0, 0.5, 1.0], [0.0] * 4, [2.0] * 4])
    assert intrinsic_dimension(distances).tolist() == [2 / math.log(2), 0.0, math.inf]


@pytest.mark.parametrize("blocks", [(7, 5), (64, 64)])
def test_blocks_find_the_neighbors_of_the_whole_even_far_from_the_origin(blocks):
    rng = np.random.default_rng(1)
    points = (1000 + rng.normal(size=(40, 6))).astype(np.float32)
    far = np.linalg.norm(points[:, None].astype(float) - points[None].astype(float), axis=2)
    wanted = np.sort(far, 1)[:, 1:6]  # the first is the point itself
    found = np.concatenate(list(nearest_distances(points, 5, CPU, *blocks)))
    assert found == pytest.approx(wanted, rel=1e-12)


def test_what_is_far_from_the_median_is_left_out():
    near = NearMedian.of(np.array([1.0, 9.0, 10.0, 11.0, 12.0, 30.0, math.inf]), 3)
    assert (near.median, near.deviation) == (11.0, 2.0)
    assert near.kept.tolist() == [False, True, True, True, True, False, False]
    with pytest.raises(UserError, match="the median of the dimensions is 2 and half"):
        NearMedian.of(np.array([2.0, 2.0, 2.0, 5.0]), 3)


def test_the_command_writes_the_ids_that_stay(tmp_path, capsys):
    out, table = tmp_path / "ids.txt", tmp_path / "lid.csv"
    assert main(["dataset=digits", "runtime.progress=false", "--out", str(out), "--csv", str(table)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("359 images · 256 features, input of head.1 · 20 neighbors")
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    assert [int(row[0]) for row in rows if row[2] == "1"] == [int(line) for line in out.read_text().split()]
    assert len(rows) == 359


def test_embeddings_of_any_encoder_are_read_and_mistakes_are_one_line(tmp_path, capsys):
    split = Digits().split("test")
    rows = np.random.default_rng(2).normal(size=(359, 4)).astype(np.float32)
    np.save(tmp_path / "clip.npy", rows)
    found = dimensions(given(tmp_path / "clip.npy", split), 20, CPU)
    assert 3 < np.median(found) < 5.5
    rows[17, 2] = np.nan
    np.save(tmp_path / "few.npy", rows[:100])
    (tmp_path / "text.npy").write_text("nothing")
    for call, match in (
        (lambda: dimensions(rows, 20, CPU), "the embedding in row 17 is not finite"),
        (lambda: dimensions(rows, 359, CPU), "--neighbors 359 must be 2 to 358"),
        (lambda: given(tmp_path / "few.npy", split), r"give floating point \[images, features\]"),
        (lambda: given(tmp_path / "text.npy", split), r"text.npy cannot be read"),
        (lambda: Embedding(SmallCNN(10, 1, 8), "gone"), "the model has no layer 'gone' to tap.*--layer"),
        (lambda: Embedding(nn.ReLU()), "no linear layer whose input are its features"),
    ):
        with pytest.raises(UserError, match=match):
            call()
    assert main(["--deviations", "0"]) == 1
    assert capsys.readouterr().err == "error: --deviations 0 must be above 0\n"


def test_features_are_what_the_last_linear_layer_is_given_or_a_mean_over_places():
    network, x = SmallCNN(10, 1, 8).eval(), torch.rand(3, 1, 8, 8)
    before = nn.Sequential(*network.children())[:-1](x)
    assert torch.equal(Embedding(network)(x), before.flatten(1))
    assert torch.equal(Embedding(network, "layer2")(x), before.mean((2, 3)))

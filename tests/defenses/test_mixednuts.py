"""The map of MixedNUTS, the search of its parameters, and the images that the search must not see."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from gauntlet.commands import calibrate_mixednuts
from gauntlet.commands.calibrate_mixednuts import calibrate
from gauntlet.commands.calibration import Setting, check_disjoint
from gauntlet.config.shipped import CONF
from gauntlet.data.dataset import Batch
from gauntlet.defenses.calibration_data import CalibrationData
from gauntlet.defenses.mixednuts import MixedNUTS, covering, mapped, nuts, probability_margins, search, standardized
from gauntlet.errors import UserError
from gauntlet.jobs.attack_setup import prepare
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

H = torch.tensor([[1, 0.8, 0.1, -0.3, -0.2, 0, 0.1, -0.6, -0.1, 0.2]], dtype=torch.float64)
PARTS = {"accurate": None, "robust": None}


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden_values():
    found = mapped(H, 5.0, -1.1, 4.0)
    expected = [0.6193, 0.0122, -0.0025, 0, -0.0001, -0.0012, -0.0025, 0, -0.0005, -0.0038]
    assert found[0].tolist() == pytest.approx(expected, abs=5e-5)
    assert float(found.softmax(1).max()) == pytest.approx(0.17106, abs=5e-6)
    scores = nuts(torch.nn.functional.one_hot(torch.tensor([3]), 10), found, 0.99875).exp()
    assert int(scores.argmax()) == 0
    assert [float(scores[0, k]) for k in (0, 3)] == pytest.approx([0.17084, 0.09322], abs=5e-6)
    assert float(scores.sum()) == pytest.approx(1)


def test_the_largest_logits_alone_count():
    logits = draw(0, 5, 400)
    top = logits.sort(1, descending=True).values[:, :250]
    mean, spread = top.mean(1, keepdim=True), top.var(1, keepdim=True).sqrt()
    torch.testing.assert_close(standardized(logits), (logits - mean) / spread)
    torch.testing.assert_close(standardized(3 * H + 7), standardized(H))
    assert mapped(torch.full((1, 10), 0.1), 5.0, -1.1, 4.0).abs().max() < 1


@pytest.mark.parametrize(("beta", "n"), [(0.985, 200), (0.985, 67), (0.9, 10), (1.0, 7), (0.51, 3)])
def test_the_margin_that_enough_reach(beta, n):
    margins = draw(n, n).abs()
    bound = covering(margins, beta)
    assert (margins >= bound).double().mean() >= beta
    assert (margins > bound).double().mean() < beta


def logits(seed, n, confidence):
    """Of n images: the first class leads by a gap of about that size."""
    found = draw(seed, n, 10)
    found[:, 0] = found[:, 1:].amax(1) + confidence * draw(seed + 1, n).abs()
    return found


def test_the_search_keeps_what_it_promises():
    wrong, held = logits(0, 60, 0.6), logits(2, 150, 1.5) + 1.0 * torch.eye(10, dtype=torch.float64)[0]
    found = search(wrong, held, 0.95, grid=5)
    scores = mapped(held, found.s, found.c, found.p)
    assert found.held >= 0.95
    assert found.alpha == pytest.approx(1 / (1 + found.threshold))
    least = probability_margins(mapped(wrong, found.s, found.c, found.p)) >= found.threshold
    assert found.kept == pytest.approx(float(least.double().mean()))
    assert found.kept < 0.5
    margins = [float(probability_margins(each).median()) for each in (scores, held, wrong)]
    assert (found.gap[0], *found.gap_plain) == pytest.approx(margins)
    safe = probability_margins(scores) > found.threshold
    for enemy in range(10):  # the margin lemma, for every choice of the accurate network
        choice = torch.nn.functional.one_hot(torch.full((150,), enemy), 10)
        assert (nuts(choice, scores, found.alpha).argmax(1) == scores.argmax(1))[safe].all()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"wrong": H[:0]}, "errs on none"),
        ({"held": H[:0]}, "leaves no right answer"),
        ({"beta": 0.4}, "beta=0.4"),
        ({"p_range": (0.5, 2.0)}, "p_range"),
        ({"s_range": (0.0, 2.0)}, "s_range"),
        ({"held": torch.zeros(4, 10)}, "ties right answers"),
    ],
)
def test_a_search_that_cannot_be(changed, told):
    with pytest.raises(UserError, match=told):
        search(**({"wrong": H, "held": H} | changed))


@pytest.mark.parametrize(
    "knobs",
    [{"s": 0.0}, {"p": 0.5}, {"alpha": 0.4}, {"alpha": 1.1}, {"blend": 0.2}, {"p": float("nan")}, {"parts": {}}],
)
def test_bad_knobs(knobs):
    with pytest.raises(UserError):
        MixedNUTS(**({"parts": PARTS} | knobs))


class Linear(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.weight = draw(seed, 10, 16).float()

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def test_the_heads_and_the_limits():
    g, h = Linear(0), Linear(1)
    x, rng = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)), Rng(0, torch.arange(20))
    victim = MixedNUTS(parts=PARTS, alpha=0.9, blend=0.8).deploy({"accurate": g, "robust": h})
    found = {head.name: head.forward(x, rng) for head in victim.heads}
    assert list(found) == ["true", "blended", "robust", "mapped", "accurate"]
    expected = 0.2 * g(x).softmax(1) + 0.72 * h(x).softmax(1) + 0.08 * found["mapped"].softmax(1)
    torch.testing.assert_close(found["blended"].exp(), expected)
    alone = MixedNUTS(parts=PARTS, alpha=1.0).deploy({"accurate": g, "robust": h})
    torch.testing.assert_close(alone.predict(x, rng), found["mapped"].log_softmax(1))


class Images:
    """A part of a data set."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def read(self, positions):
        at = torch.arange(len(self))[positions]
        return Batch(at, self.x[at], self.y[at])


def images(seed, n=40):
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Images(x, Linear(1)(x).argmax(1))


def test_images_that_are_evaluated_are_refused():
    test, split = images(0), images(1)
    check_disjoint("validation", split, test, 40)
    split.x[30] = test.x[3]
    check_disjoint("validation", split, test, 30)
    with pytest.raises(UserError, match="1 of the calibration images"):
        check_disjoint("validation", split, test, 40)
    with pytest.raises(UserError, match="--part test"):
        check_disjoint("test", images(2), test, 40)


def test_the_calibration_counts_what_it_used():
    split = images(3)
    split.y[:6] = (split.y[:6] + 1) % 10
    done = calibrate(Linear(0), Linear(1), split, Threat("linf", 0.01), 10, 40, 3, 2, 0.9)
    assert (done.images, done.wrong) == (40, 6)
    assert 0 < done.held <= 34
    assert done.clean[1] == pytest.approx(34 / 40)
    assert done.found.held >= 0.9
    for chosen, name in (([], "mixednuts"), (["defense=mixednuts_cifar"], "mixednuts_cifar")):
        told = calibrate_mixednuts.lines(done, Setting.of("mixednuts", chosen).name)
        assert told[-1].startswith(f"defense={name} defense.s=")
    assert told[-1].endswith(
        "defense.calibration.split=validation defense.calibration.images=40 defense.calibration.beta=0.9"
    )


def test_the_command_refuses_the_test_part(capsys):
    assert calibrate_mixednuts.main(["--part", "test"]) == 1
    assert capsys.readouterr().err.startswith("error: --part test is what is evaluated")


def test_images_that_parameters_were_fitted_to_are_never_evaluated():
    CalibrationData("validation", 40, 0.9, "sha256:a").check("sha256:b")
    with pytest.raises(UserError, match="fitted to the images that are evaluated"):
        CalibrationData("train", digest="sha256:a").check("sha256:a")
    for split, told in (("test", "what is evaluated"), ("tset", "unknown")):
        with pytest.raises(UserError, match=told):
            CalibrationData(split)
    with pytest.raises(UserError, match="images"):
        CalibrationData("train", -1)


def test_run_refuses_them_too(tmp_path, capsys, monkeypatch):
    from gauntlet.data.digits import Digits

    digest = Digits().split("test").digest()
    monkeypatch.setattr("sys.argv", ["run.py"])
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", ["defense=mixednuts", f"defense.calibration.digest={digest}", f"runs_dir={tmp_path}"])
    with pytest.raises(UserError, match="fitted to the images that are evaluated"):
        prepare(cfg, {}, "")

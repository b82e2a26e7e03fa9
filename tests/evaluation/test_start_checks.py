"""A model that misbehaves ends the run before any work, with one line that says how; a good one is left alone."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from gauntlet.attacks.pgd import PGD
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation import deployment
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.start_checks import check_forwards
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from gauntlet.threat_model.watched_forward import watched

FORM = (1, 4, 4)
THREAT = Threat("linf", 0.1)


class Net(nn.Module):
    """A linear classifier of which a function changes what it does."""

    def __init__(self, before=lambda x: x, after=lambda z: z):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.before, self.after = nn.Linear(16, 3), before, after

    def forward(self, x):
        return self.after(self.layer(self.before(x).flatten(1)))


def evaluation(net, **options):
    victim = watched(Victim(plain(net), (net.eval().requires_grad_(False),)))
    return Evaluation(victim, ("pgd", PGD(steps=3)), THREAT, 3, **options)


def in_place_round(x):
    return x.mul_(4).round_().div_(4)


def through_data(x):
    x.data.clamp_(0.2, 0.8)
    return x


def leave_no_grad(z):
    torch.set_grad_enabled(False)
    return z


def set_dtype(z):
    torch.set_default_dtype(torch.float64)
    return z.float()


def set_threads(z):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return z


def set_deterministic(z):
    torch.use_deterministic_algorithms(True)
    return z


def leave(z):
    sys.exit(0)


def stop(z):
    raise StopIteration


def numpy(z):
    return torch.from_numpy(z.detach().numpy().copy())


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (lambda x: functional.hardtanh_(x, 0.05, 0.95), lambda z: z, "writes into its input"),
        (in_place_round, lambda z: z, "writes into its input"),
        (through_data, lambda z: z, "writes into its input"),
        (lambda x: x, lambda z: z.argmax(1), "scores of type int64"),
        (lambda x: x, lambda z: z.squeeze(0), "a batch of one"),
        (lambda x: x, lambda z: z.to_sparse(), "sparse scores"),
        (lambda x: x, lambda z: z.to("meta"), "have no values"),
        (lambda x: x, lambda z: {"logits": z}, "gives a dict"),
        (lambda x: x, leave_no_grad, "switches gradients"),
        (lambda x: x, set_dtype, "set_default_dtype"),
        (lambda x: x, set_threads, "set_num_threads"),
        (lambda x: x, set_deterministic, "use_deterministic_algorithms"),
        (lambda x: x, leave, r"ended with SystemExit"),
        (lambda x: x, stop, "cannot predict"),
        (lambda x: x, numpy, "access=score"),
        (lambda x: x, lambda z: z.detach(), "access=score"),
        (lambda x: x, lambda z: torch.zeros_like(z).detach(), "access=score"),
    ],
)
def test_a_forward_that_misbehaves_is_refused_by_what_it_does(before, after, said):
    before_all = torch.get_num_threads()
    with pytest.raises(UserError, match=said) as caught:
        check_forwards(evaluation(Net(before, after)), FORM)
    assert "\n" not in str(caught.value)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == before_all
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_forward_that_seeds_the_process_is_named_whatever_was_seeded_before(caplog):
    def seed(z):
        torch.manual_seed(1)
        return z

    torch.manual_seed(1)
    state = torch.get_rng_state()
    check_forwards(evaluation(Net(after=seed)), FORM)
    assert "seeds it" in caplog.text
    assert torch.equal(torch.get_rng_state(), state)


def test_a_forward_that_asserts_is_told_in_one_line():
    def check(x):
        assert x.shape[-1] == 224, "expected images of 224 pixels"
        return x

    with pytest.raises(UserError, match=r"cannot predict images of shape .*expected images of 224"):
        check_forwards(evaluation(Net(check)), FORM)


@pytest.mark.parametrize("ending", [SystemExit(0), GeneratorExit()])
def test_an_attack_that_exits_is_an_error_record(ending):
    class Leaves(PGD):
        def __call__(self, head, x, y, *, threat, rng):
            raise ending

    run = evaluation(Net())
    run = Evaluation(run.victim, ("leaves", Leaves()), THREAT, 3, coverage="all")
    rows = evaluate_chunk(run, Batch(torch.arange(4), torch.rand(4, *FORM), torch.zeros(4, dtype=torch.long))).rows
    assert rows.to_pandas()["error"].dropna().str.contains(type(ending).__name__).sum() == 4


@pytest.mark.parametrize("write", ["data", "seed"])
def test_what_a_forward_hides_from_the_version_counter_changes_no_record(write):
    """Behind copies, a write through `.data` on some images only cannot move the attack's own."""

    def hidden(x):
        if write == "seed":
            torch.manual_seed(3)
        elif len(x) > 2:
            x.data.clamp_(0.2, 0.8)
        return x

    x = torch.rand(6, *FORM)
    batch = Batch(torch.arange(6), x.clone(), Net()(x).argmax(1))
    done = evaluate_chunk(evaluation(Net(hidden), every=True), batch)
    assert torch.equal(batch.x, x)
    assert (torch.from_numpy(done.adversarial["z"]) - x[done.adversarial["sample"]]).abs().max() <= 0.1 + 1e-6
    assert done.rows.to_pandas()["error"].isna().all()


def test_a_seed_set_in_a_forward_is_named(caplog):
    def seeded(x):
        torch.manual_seed(3)
        return x

    torch.manual_seed(0)
    check_forwards(evaluation(Net(seeded)), FORM)
    assert "global generator" in caplog.text


def test_a_forward_that_needs_the_usual_order_of_pixels_gets_it():
    torch.manual_seed(0)
    conv, head = nn.Conv2d(1, 3, 3), nn.Linear(108, 4)
    x = torch.rand(5, 8, 8, 1).permute(0, 3, 1, 2)
    assert x.stride() == (64, 1, 8, 1)
    victim = watched(Victim(lambda z, rng: (lambda h: head(h.view(len(h), -1)))(conv(z)), (conv, head)))
    usual = x.clone(memory_format=torch.contiguous_format)
    assert torch.equal(victim.predict(x, Rng(0, torch.arange(5))), head(conv(usual).flatten(1)))


def test_a_copy_with_folded_batch_norm_that_cannot_take_its_layout_is_dropped(caplog):
    class LeNet(nn.Module):
        def __init__(self, reshape):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 5)
            self.reshape = reshape

        def forward(self, x):
            h = self.norm(self.conv(x))
            return self.head(h.reshape(len(h), -1) if self.reshape else h.view(len(h), -1))

    class Plain:
        def deploy(self, models):
            return Victim(plain(models["net"]), (models["net"],))

    data = SimpleNamespace(channels=3, size=8)
    for reshape in (True, False):
        models = {"net": LeNet(reshape).eval()}
        copy = deployment._fused(Plain(), models, deployment._deployed(Plain(), models), data, torch.device("cpu"))
        assert (copy is not None) is reshape
    assert caplog.text.count("BN-fused copies: RuntimeError: view size") == 1


def test_a_good_model_is_left_alone():
    check_forwards(evaluation(Net()), FORM)


def test_a_write_that_only_some_images_meet_is_caught_where_it_happens():
    def sometimes(x):
        return x.clamp_(0, 0.5) if x.max() > 0.5 and len(x) > 2 else x

    run = evaluation(Net(sometimes))
    check_forwards(run, FORM)
    with pytest.raises(UserError, match="writes into its input"):
        evaluate_chunk(run, Batch(torch.arange(4), torch.rand(4, *FORM), torch.zeros(4, dtype=torch.long)))


def test_the_judge_measures_against_the_images_of_the_data_set():
    """An attack that moves the images that it is given is judged on how far it went from those of the data set."""

    class Mover:
        needs = "score"

        def __call__(self, head, x, y, *, threat, rng):
            x += 0.3
            y += 1
            return x.clamp(0, 1)

    net = Net()
    x = torch.rand(6, *FORM) * 0.5
    y = net(x).argmax(1)
    run = Evaluation(watched(Victim(plain(net), (net.eval(),))), ("mover", Mover()), THREAT, 3)
    rows = evaluate_chunk(run, Batch(torch.arange(6), x.clone(), y.clone())).rows.to_pandas()
    attacked = rows[rows["stage"] != "clean"]
    assert attacked["error"].str.contains("outside the threat, at distance 0.3").all()
    assert (rows["label"] == y[rows["sample"].tolist()].numpy()).all()

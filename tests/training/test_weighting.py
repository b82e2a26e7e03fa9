"""Weightings: their closed forms, what they observe, what they refuse, and LRAT."""

import math

import pytest
import torch
import torch.nn.functional as F

from gauntlet.attacks.losses import runner_up
from gauntlet.errors import UserError
from gauntlet.training.distributed import ALONE
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.abnormal_examples import AAER
from gauntlet.training.objectives.local_reweighting import LRAT, shared_out
from gauntlet.training.objectives.objective import PGDAT, Standard, TRADESObjective
from gauntlet.training.sample_weighting import GAIRAT, MAIL, BatchOutcome, Progress, SoftmaxWeighting, Weighting
from gauntlet.training.step import Player
from gauntlet.training.weight_perturbation import WeightPerturbation

PGD = InnerPGD(eps=0.15, steps=4)
MIDDLE = (0.7, 0.7)


def outcome(losses=None, y=None, now=0.7, logits=None, right_steps=None):
    """A batch as weightings see it."""
    some = next(given for given in (losses, logits, right_steps) if given is not None)
    losses = torch.zeros(len(some)) if losses is None else losses
    y = torch.zeros(len(some), dtype=torch.int64) if y is None else y
    return BatchOutcome(losses, y, Progress(now, now), logits, right_steps)


class Watching(Weighting):
    """Equal weights that note what they were told."""

    def __init__(self, *needs):
        self.needs, self.seen = needs, []

    def weights(self, batch, memory):
        self.seen.append(batch)
        return torch.ones_like(batch.losses)


def moved(net, recipe, batch, rng, progress=MIDDLE):
    """The network after one step."""
    Player(net, recipe, ALONE, None)(batch.x, batch.y, rng, 1.0, progress)
    return net


def test_softmax_weights_are_those_of_the_worst_case_and_average_to_one():
    losses = torch.tensor([0.0, 1.0, 2.0])
    weights = SoftmaxWeighting(temperature=0.5).weights(outcome(losses), {})
    assert float(weights.mean()) == pytest.approx(1)
    assert torch.allclose(weights[1:] / weights[:-1], torch.tensor(2.0).exp())
    assert torch.allclose(SoftmaxWeighting(temperature=1e6).weights(outcome(losses), {}), torch.ones(3), atol=1e-4)


def test_a_moving_average_divides_by_what_it_remembers():
    """u <- (1 - rate) u + rate mean exp(l / t), and weights exp(l / t) / u, once a step."""
    weighting = SoftmaxWeighting(temperature=0.5, rate=0.1)
    memory, u = {}, None
    for losses in (torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0]), torch.tensor([0.5, 3.0])):
        mean = float((losses / 0.5).exp().mean())
        u = mean if u is None else 0.9 * u + 0.1 * mean
        assert torch.allclose(weighting.weights(outcome(losses), memory), (losses / 0.5).exp() / u)
        memory = weighting.remembered(outcome(losses), memory)
    whole = SoftmaxWeighting(temperature=0.5, rate=0.9999999).weights(outcome(losses), memory)
    assert torch.allclose(whole, SoftmaxWeighting(temperature=0.5).weights(outcome(losses), {}), atol=1e-4)
    assert SoftmaxWeighting(temperature=0.5).remembered(outcome(losses), {}) == {}


def test_softmax_weights_follow_the_loss_and_spread_with_the_temperature():
    losses = torch.tensor([0.1, 0.5, 0.7, 3.0])
    entropies = []
    for temperature in (0.1, 1.0, 10.0):
        weights = SoftmaxWeighting(temperature=temperature).weights(outcome(losses), {})
        assert (weights.diff() > 0).all()
        share = weights / 4
        entropies.append(float(-(share * share.log()).sum()))
    assert entropies == sorted(entropies)
    huge = SoftmaxWeighting(temperature=1e-3, rate=0.5)
    memory = huge.remembered(outcome(1000 * losses), {})
    assert huge.weights(outcome(1000 * losses), memory).isfinite().all()
    assert SoftmaxWeighting(temperature=0.1, most=1.5).weights(outcome(losses), {}).max() == 1.5


def test_the_memory_is_updated_once_a_step_by_the_losses_that_moved_the_weights(batch, rng, make_net, make_recipe):
    """Not by those that move the adversary of the weights before."""
    weighting = SoftmaxWeighting(temperature=1.0, rate=0.1)
    recipe = make_recipe(objective=PGDAT(PGD), weighting=weighting, weight_perturbation=WeightPerturbation(radius=0.05))
    player = Player(make_net(steps=3).train(), recipe, ALONE, None)
    losses = player(batch.x, batch.y, rng, 1.0, MIDDLE)
    assert torch.allclose(player.weigher.memory["level"], losses.logsumexp(0) - math.log(32))


def test_gairat_counts_what_falls_early_most():
    kappa = torch.tensor([0.0, 0.5, 1.0])
    found = GAIRAT().weights(outcome(right_steps=kappa), {})
    raw = torch.tensor([(1 + math.tanh(-1 + 5 * (1 - 2 * k))) / 2 for k in kappa.tolist()])
    assert torch.allclose(found, 3 * raw / raw.sum())
    assert torch.equal(GAIRAT().weights(outcome(right_steps=kappa, now=0.4), {}), torch.ones(3))
    assert torch.allclose(GAIRAT(shift=20.0).weights(outcome(right_steps=kappa), {}), torch.ones(3))


def test_mail_is_a_sigmoid_of_the_probability_margin():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.4, 0.2]], dtype=torch.float64)
    found = MAIL().weights(outcome(torch.zeros(3, dtype=torch.float64), logits=p.log()), {})
    margins = torch.tensor([0.2 - 0.7, 0.6 - 0.1, 0.0], dtype=torch.float64)
    assert torch.allclose(found, 3 * torch.sigmoid(10 * (margins - 0.5)))
    assert torch.equal(MAIL().weights(outcome(logits=p.log(), now=0.6), {}), torch.ones(3))


def test_right_steps_are_those_of_the_points_where_the_attack_takes_its_steps(batch, rng, make_net, make_recipe):
    watching, net = Watching("right_steps"), make_net(steps=3).train()
    moved(net, make_recipe(objective=PGDAT(PGD), weighting=watching), batch, rng)
    net, draws = make_net(steps=3).eval(), rng.stream("objective").stream("attack")
    points = [InnerPGD(eps=0.15, steps=k)(net, batch.x, batch.y, draws) for k in range(4)]
    right = torch.stack([net(z).argmax(1) == batch.y for z in points]).float().mean(0)
    assert torch.equal(watching.seen[0].right_steps, right)
    assert len(set(right.tolist())) > 2
    watching = Watching("right_steps")
    attack = InnerPGD(eps=0.15, steps=4, loss="kl", init="normal")
    moved(make_net(steps=3).train(), make_recipe(objective=TRADESObjective(attack), weighting=watching), batch, rng)
    assert {4 * share % 1 for share in watching.seen[0].right_steps.tolist()} == {0}  # the look at the image is no step


def test_logits_are_those_on_the_examples_in_the_mode_of_training(batch, rng, make_net, make_recipe):
    objective = TRADESObjective(InnerPGD(eps=0.15, steps=2, loss="kl", init="normal"))
    watching, net = Watching("logits"), make_net(steps=3).train()
    moved(net, make_recipe(objective=objective, weighting=watching), batch, rng)
    net = make_net(steps=3).train()
    z = objective.examples(net, batch.x, batch.y, rng.stream("objective"))
    assert torch.allclose(watching.seen[0].logits, net(z), atol=1e-6)
    assert not watching.seen[0].logits.requires_grad


def test_weights_of_one_change_no_bit(batch, rng, make_net, make_recipe):
    plain = moved(make_net(steps=3).train(), make_recipe(objective=PGDAT(PGD)), batch, rng)
    for weighting in (MAIL(slope=0.0, scale=2.0), GAIRAT(start=0.9), Watching("logits", "right_steps")):
        recipe = make_recipe(objective=PGDAT(PGD), weighting=weighting)
        assert torch.equal(moved(make_net(steps=3).train(), recipe, batch, rng).head.weight, plain.head.weight)


def test_a_term_alone_is_weighted(batch, rng, make_net, make_recipe):
    objective = TRADESObjective(InnerPGD(eps=0.15, steps=2, loss="kl", init="normal"), beta=5.0)
    mail = MAIL(slope=2.0, bias=0.0, term="attacked")
    net, mine = make_net(steps=3).train(), make_net(steps=3).train()
    moved(net, make_recipe(objective=objective, weighting=mail, weight_decay=0.0, momentum=0.0), batch, rng)
    z = objective.examples(mine, batch.x, batch.y, rng.stream("objective"))
    clean, attacked = mine(batch.x), mine(z)
    q = attacked.detach().softmax(1)
    rival, own = (q.gather(1, k[:, None]).squeeze(1) for k in (runner_up(attacked.detach(), batch.y), batch.y))
    p, log_q = clean.softmax(1), attacked.log_softmax(1)
    divergence = (p * (clean.log_softmax(1) - log_q)).sum(1)
    weights = 3 * torch.sigmoid(2 * (rival - own))
    (F.cross_entropy(clean, batch.y) + 5 * (weights * divergence).mean()).backward()
    assert torch.allclose(net.head.weight, mine.head.weight - 0.1 * mine.head.weight.grad, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "weighting", "words"),
    [
        (PGDAT(PGD), MAIL(slope=1e4, bias=-2.0, start=0.0), "MAIL for a batch must be zero or positive, and not all"),
        (Standard(), GAIRAT(), "counts steps of an attack on the network, and Standard makes none"),
        (AAER(eps=0.1), MAIL(start=0.0), "needs the logits on the examples, and AAER"),
        (PGDAT(PGD), MAIL(term="attacked"), "the loss of PGDAT has no such parts; set it to null"),
        (TRADESObjective(PGD, beta=0.0), MAIL(term="attacked"), "attacked is no part of this loss; it has clean"),
    ],
)
def test_what_cannot_be_weighted_is_refused_in_one_line(objective, weighting, words, batch, rng, make_net, make_recipe):
    with pytest.raises(UserError, match=words) as caught:
        moved(make_net(steps=20).train(), make_recipe(objective=objective, weighting=weighting), batch, rng)
    assert "\n" not in str(caught.value)


def test_zero_weights_have_no_mean():
    with pytest.raises(UserError, match="every sample of a batch the weight zero"):
        GAIRAT(shift=-100.0).weights(outcome(right_steps=torch.ones(3)), {})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SoftmaxWeighting(temperature=0.0), "recipe.weighting.temperature"),
        (lambda: SoftmaxWeighting(temperature=math.inf), "recipe.weighting.temperature"),
        (lambda: SoftmaxWeighting(start=1.0), "recipe.weighting.start"),
        (lambda: SoftmaxWeighting(rate=0.0), "recipe.weighting.rate"),
        (lambda: SoftmaxWeighting(most=1.0), "recipe.weighting.most"),
        (lambda: GAIRAT(start=1.0), "recipe.weighting.start"),
        (lambda: MAIL(slope=-1.0), "recipe.weighting.slope"),
        (lambda: MAIL(term="all"), "recipe.weighting.term"),
        (lambda: LRAT(PGD, mass=-1.0), "recipe.objective.mass"),
        (lambda: LRAT(PGD, variants=["ce", "ce"]), "names a loss twice"),
        (lambda: LRAT(PGD, variants=["cw"]), "attack.loss"),
    ],
)
def test_values_out_of_range_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_an_image_and_its_variants_share_out_the_mass():
    clean, attacked = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([[2.0, 4.0]] * 3)
    weights = torch.tensor([[0.5, 0.5], [0.25, 0.0], [1.0, 1.0]])
    assert shared_out(clean, attacked, weights, 1.0).tolist() == [3.0, 0.5 + 0.75, 6.0]
    assert shared_out(clean, attacked, weights, 0.0).tolist() == [3.0, 0.5, 6.0]


def test_lrat_weights_within_a_sample_alone(batch, rng, make_net):
    net, objective = make_net(steps=5).eval(), LRAT(PGD)
    z = objective.examples(net, batch.x, batch.y, rng)
    assert z.shape == (32, 2, 1, 8, 8)
    assert ((z - batch.x[:, None]).abs() <= 0.15 + 1e-6).all()
    for number, loss in enumerate(("ce", "margin")):
        attack = InnerPGD(eps=0.15, steps=4, loss=loss)
        assert torch.equal(z[:, number], attack(net, batch.x, batch.y, rng.stream("attack")))
    found = objective.losses(net, batch.x, batch.y, z, rng)
    alone = objective.losses(net, batch.x[3:5], batch.y[3:5], z[3:5], rng)
    assert torch.allclose(found[3:5], alone, atol=1e-6)


def test_lrat_without_variants_or_weights_is_standard_training(batch, rng, make_net):
    net = make_net(steps=5).eval()
    clean = F.cross_entropy(net(batch.x), batch.y, reduction="none")
    assert torch.allclose(LRAT(PGD, variants=[]).loss(net, batch.x, batch.y, rng), clean)
    harmless = LRAT(PGD, slope=1e4, bias=-2.0)  # no margin reaches 2
    assert torch.allclose(harmless.loss(net, batch.x, batch.y, rng), clean)
    whole = LRAT(PGD, variants=["ce"], slope=1e4, bias=2.0)  # all weight to the variant
    assert torch.allclose(whole.loss(net, batch.x, batch.y, rng), PGDAT(PGD).loss(net, batch.x, batch.y, rng))

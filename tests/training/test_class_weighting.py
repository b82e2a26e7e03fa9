"""DAFA: class weights in closed form, measured in the last epoch before they count, and saved with the state."""

import pytest
import torch

from gauntlet.errors import UserError
from gauntlet.training.class_weighting import DAFA, class_weights
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.objective import PGDAT
from gauntlet.training.sample_weighting import BatchOutcome, Progress
from gauntlet.training.trainer import TrainingRun

S = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.6, 0.3], [0.2, 0.1, 0.7]], dtype=torch.float64)


def outcome(logits, y, epoch=0.2):
    return BatchOutcome(torch.zeros(len(y)), y, Progress(epoch, epoch), logits)


def test_the_harder_of_two_classes_takes_weight_from_the_easier():
    found = class_weights(S, 1.0)
    by_hand = [
        1 - 0.1 * 0.9 - 0.2 * 0.9,  # the easiest gives to both: S_10 S_00 and S_20 S_00
        1 + 0.1 * 0.9 + 0.3 * 0.7,  # the hardest takes from both
        1 + 0.2 * 0.9 - 0.3 * 0.7,
    ]
    assert found.tolist() == pytest.approx(by_hand)
    assert float(found.sum()) == pytest.approx(3)


def test_alike_or_distinct_classes_weigh_the_same():
    assert torch.equal(class_weights(torch.full((4, 4), 0.25), 1.0), torch.ones(4))
    assert torch.equal(class_weights(torch.eye(4), 1.0), torch.ones(4))
    assert torch.equal(class_weights(S, 0.0), torch.ones(3, dtype=torch.float64))
    assert class_weights(S, 100.0).min() == 0


def test_the_last_epoch_before_the_start_is_measured():
    p, y = S.log(), torch.tensor([0, 1, 2])
    dafa, memory = DAFA(start=0.5), {}
    memory = dafa.remembered(outcome(torch.zeros(3, 3), y, epoch=0.0), memory)
    memory = dafa.remembered(outcome(p, y, epoch=0.4), memory)
    memory = dafa.remembered(outcome(torch.eye(3).log().clamp_min(-30), y, epoch=0.4), memory)
    assert dafa.remembered(outcome(torch.zeros(3, 3), y, epoch=0.5), memory) is memory
    expected = class_weights((S.float() + torch.eye(3)) / 2, 1.0)
    labels = torch.tensor([2, 2, 0, 1])
    late, soon = Progress(0.6, 0.5), Progress(0.6, 0.4)
    assert torch.allclose(dafa.factors(labels, late, memory), expected[labels])
    assert torch.allclose(dafa.weights(outcome(torch.zeros(4, 3), labels, epoch=0.5), memory), expected[labels])
    assert dafa.factors(labels, soon, memory) is None
    assert torch.equal(dafa.weights(outcome(torch.zeros(4, 3), labels, epoch=0.4), memory), torch.ones(4))
    assert dafa.columns(memory)["class weight/largest"] == pytest.approx(float(expected.max()))


def test_a_class_without_images_is_named():
    memory = DAFA().remembered(outcome(torch.zeros(2, 3), torch.tensor([0, 2])), {})
    with pytest.raises(UserError, match="no image of class 1 came up"):
        DAFA().factors(torch.tensor([0]), Progress(0.9, 0.9), memory)


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"start": 0.0}, {"start": 1.0}, {"term": "all"}])
def test_unfit_values_are_refused(options):
    with pytest.raises(UserError, match=f"recipe.weighting.{next(iter(options))}"):
        DAFA(**options)


def _trained(few, make_net, make_recipe, stops=()):
    """The run of a training with class weights, saved and restored at those steps."""
    recipe = make_recipe(objective=PGDAT(InnerPGD(eps=0.15, steps=1)), epochs=3, weighting=DAFA(start=0.5))
    run = TrainingRun(make_net(), few, recipe, 0, torch.device("cpu"))
    steps = run.steps()
    for number in range(run.total):
        if number in stops:
            state, run = run.state(), TrainingRun(make_net(), few, recipe, 0, torch.device("cpu"))
            run.restore(state)
            steps = run.steps()
        next(steps)
    return run


def test_stopped_within_the_measured_epoch_and_after_it_gives_the_same_bits(few, make_net, make_recipe):
    straight = _trained(few, make_net, make_recipe)
    broken = _trained(few, make_net, make_recipe, stops=(4, 7))
    assert torch.equal(straight.model.head.weight, broken.model.head.weight)
    first, *_, last = (epoch.columns for epoch in straight.history.epochs)
    assert first["class weight/least"] < 1 < last["class weight/largest"]


def test_without_strength_no_bit_changes(few, make_net, make_recipe):
    recipe = make_recipe(objective=PGDAT(InnerPGD(eps=0.15, steps=1)))
    runs = []
    for weighting in (None, DAFA(strength=0.0, start=0.5)):
        run = TrainingRun(make_net(), few, make_recipe(objective=recipe.objective, weighting=weighting), 0, "cpu")
        list(run.steps())
        runs.append(run.model.head.weight)
    assert torch.equal(*runs)

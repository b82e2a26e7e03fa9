"""An alternating step: several players, each of which moves a part of the weights, in turn, for every batch."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.training.objectives.objective import Objective


@dataclass(frozen=True, kw_only=True)
class Phase(Knobs, key="recipe.alternation.phases"):
    """One move. What is null is as in the recipe.

    Args:
        group: name of the weights that move: a key of `model.parameter_groups()`.
        objective: what this player minimizes.
        learning_rate, momentum, weight_decay: of its own optimizer, which has the kind and the schedule of the recipe.
        perturbed: whether the weight perturbation of the recipe takes part; it moves the weights of this group only.

    Raises:
        UserError: a value outside its range.
    """

    group: str
    objective: Objective | None = None
    learning_rate: float | None = knob(None, least=0, optional=True)
    momentum: float | None = knob(None, least=0, optional=True)
    weight_decay: float | None = knob(None, least=0, optional=True)
    perturbed: bool = False


@dataclass(frozen=True, kw_only=True)
class Alternation:
    """The phases of a step, in their order; every batch goes through all of them.

    The contract with a model: `model.parameter_groups() -> dict[str, list[nn.Parameter]]` names disjoint groups of its
    weights. Weights in no phase stay as they are, so a frozen router is an alternation without its phase. A phase

    1. crafts the examples of its own objective, against the weights as the phases before it left them;
    2. takes the gradient of the mean loss for the weights of its group alone (the others ask for none meanwhile, so
       that the passes are as cheap as they can be, and their `.grad` stays as it was);
    3. moves them by its own optimizer.

    All phases of a step see the same images, labels and augmentation. The draws of a phase come from a stream of its
    own, named after its group, so that adding a phase changes no draw of another. Every forward in train mode moves the
    batch-norm statistics, whichever phase makes it. The loss that is reported is that of the first phase, and each
    phase has a column `loss/GROUP` in the history. A model that has a method `columns(x) -> dict[str, float]` is asked
    at the end of each epoch, in eval mode, with validation images [B, C, H, W]; its numbers (the loads of the experts,
    say) become columns too.
    The classifier that is validated is that of the recipe's objective.

    Args:
        phases: at least one; their groups differ.

    Raises:
        UserError: no phase, or two of one group.
    """

    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups = [phase.group for phase in self.phases]
        if not groups or len(set(groups)) < len(groups):
            raise UserError(
                f"recipe.alternation.phases move {groups}; name at least one group of weights, and each once"
            )

    def weights(self, model: nn.Module) -> Iterator[tuple[Phase, list[nn.Parameter]]]:
        """Yield the phases with the weights that they move. Raises UserError where the model has no such groups."""
        if not callable(groups_of := getattr(model, "parameter_groups", None)):
            raise UserError(f"recipe.alternation needs parameter_groups(); {type(model).__name__} has none")
        groups: dict[str, list[nn.Parameter]] = groups_of()
        members = [id(weight) for group in groups.values() for weight in group]
        if len(set(members)) < len(members):
            raise UserError(f"{type(model).__name__}.parameter_groups() names a weight twice; groups must be disjoint")
        for phase in self.phases:
            if phase.group not in groups:
                raise UserError(f"recipe.alternation: no group {phase.group}; the model has {', '.join(groups)}")
            if not groups[phase.group]:
                raise UserError(f"recipe.alternation: group {phase.group} of the model is empty; leave out its phase")
            yield phase, groups[phase.group]

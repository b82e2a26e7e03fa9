"""What an attack is, and what it declares of itself: the one place that reads its traits."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, get_args
from typing import Protocol as Interface

from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

Coverage = Literal["standing", "correct", "all"]
"""Which samples a stage attacks: the survivors (of a suite: each stage sees what the ones before left), those that are
right when clean (exhaustive: each pair of source and attack is measured by itself), or all."""

NEEDS = ("gradient", "score", "decision", "transfer", "training-set")
"""What an attack may need of the victim; "training-set": gradients on training images, to which it is fitted first."""


@dataclass(frozen=True)
class Traits:
    """What an attack declares of itself, by class variables or properties of these names; one without a default must
    be declared.

    Args:
        needs: what it needs of the victim, one of `NEEDS`. It gets the narrowest head that serves this.
        norms: the norms for which it is defined, or other kinds of threats.
        unbounded: whether it can do without a finite eps, because it measures distances.
        cross_sample: whether it compares samples. It is called once per chunk, with all survivors, and cuts its passes
            itself with `head.batches`; its records depend on the cut into chunks.
        mixture: whether it is called once on all `members` of a mixture, in place of once on each head; on another
            defense `members` is the head itself.
        coverage: which samples it attacks; None: what the run says.
        asks: whether it hands on only what it has seen fool the victim, so that it cannot run on surrogates.
        together: whether one call takes all surrogates.
        fewest_classes: how many classes the victim must have.
        pool: how many images of the data set it mixes in; they are handed to its `stocked(images, labels)`.
        stages: name -> attack, of a suite; empty: it is one attack.
        under: norm -> the stages as they run under a threat of that norm; None: `stages` under all.
        targetable: whether a targeted head (`gauntlet.threat_model.targeted`) makes it a targeted attack.
        revisions: norm -> version of what the attack does there, from 2 on; None: the first everywhere. "targeted" is
            that under targeted threats, where it is the later one. It belongs to the identity of a run, so that a run
            of an earlier version is never continued by a later one.
    """

    needs: str
    norms: tuple[str, ...] = Threat.NORMS
    unbounded: bool = False
    cross_sample: bool = False
    mixture: bool = False
    coverage: Coverage | None = None
    asks: bool = False
    together: bool = False
    fewest_classes: int = 2
    pool: int = 0
    stages: Mapping[str, Any] | None = None
    under: Callable[[str], Mapping[str, Any]] | None = None
    targetable: bool = True
    revisions: Mapping[str, int] | None = None


class Attack(Interface):
    """What an attack is: knobs bound by value, traits (see `Traits`), and a call that returns candidates only.

    A call has at most `batch_size` samples, and what becomes of one must not depend on the others, unless the attack
    declares `cross_sample`. The head is the narrowest one that serves what the attack needs: see
    `gauntlet.threat_model.access`.
    """

    needs: ClassVar[str]

    def __call__(self, head: Any, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor: ...


NAMES = tuple(field.name for field in fields(Traits))


def traits_of(attack: Any) -> Traits:
    """Return what an attack declares.

    Raises:
        UserError: a trait is missing, has a value that it cannot have, or is misspelt.
    """
    _check_names(type(attack))  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
    who = f"the attack {type(attack).__name__}"
    if not hasattr(attack, "needs"):
        raise UserError(f"{who} does not declare what it needs; give its class needs = {' or '.join(map(repr, NEEDS))}")
    found = Traits(**{name: getattr(attack, name) for name in NAMES if hasattr(attack, name)})
    for name, good, wanted in (
        ("needs", found.needs in NEEDS, f"one of {', '.join(NEEDS)}"),
        ("norms", _norms(found.norms), f"a tuple of some of {', '.join(Threat.KINDS)}"),
        ("coverage", found.coverage in (None, *get_args(Coverage)), f"one of {', '.join(get_args(Coverage))}"),
        *((name, isinstance(getattr(found, name), bool), "True or False") for name in _FLAGS),
        *((name, isinstance(getattr(found, name), int), "a whole number") for name in ("fewest_classes", "pool")),
        ("stages", found.stages is None or isinstance(found.stages, Mapping), "a mapping {name: attack}"),
        ("under", found.under is None or callable(found.under), "a method that takes a norm"),
        ("revisions", found.revisions is None or isinstance(found.revisions, Mapping), "a mapping {norm: version}"),
    ):
        if not good:
            raise UserError(f"{who} declares {name} = {getattr(found, name)!r}; it must be {wanted}")
    return found


def stages_of(name: str, attack: Any, norm: str = "") -> dict[str, Any]:
    """Return the name -> attack of the stages of a suite; of another attack: itself under `name`.

    Args:
        norm: that of the threat under which they run; empty: as they are declared.
    """
    traits = traits_of(attack)
    if not traits.stages:
        return {name: attack}
    return dict(traits.under(norm) if norm and traits.under else traits.stages)


def leaves(name: str, attack: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the attacks within an attack that are no suites, each under its name.

    Args:
        name: of the attack, where it is no suite itself.
        path: of the attack in the configuration; with it, stages are named by their path, else by their key.
    """
    stages = traits_of(attack).stages
    if not stages:
        yield name, attack
        return
    for key, stage in stages.items():
        below = f"{path}.stages.{key}" if path else key
        yield from leaves(below, stage, below if path else "")


def compares(attack: object) -> bool:
    """Return whether an attack, or a stage of a suite, compares samples, so that its candidates depend on chunks."""
    return any(traits_of(part).cross_sample for part in stages_of("", attack).values())


def revisions_of(attack: Any, threat: Threat, name: str = "attack") -> dict[str, int]:
    """Return the place of each attack, such as `attack.stages.pma` -> its version under that threat, without those at
    their first."""
    revisions = (traits_of(attack).revisions or {}) if hasattr(attack, "needs") else {}
    own = max(revisions.get(threat.norm, 1), revisions.get("targeted", 1) if threat.targeted else 1)
    found = {name: own} if own > 1 else {}
    for knob in fields(attack) if is_dataclass(attack) else ():
        value, place = getattr(attack, knob.name), f"{name}.{knob.name}"
        parts = (
            {f"{place}.{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {place: value}
        )
        for below, part in parts.items():
            found |= revisions_of(part, threat, below) if is_dataclass(part) else {}
    return found


_FLAGS = ("unbounded", "cross_sample", "mixture", "asks", "together", "targetable")


def _norms(value: object) -> bool:
    return isinstance(value, tuple | list) and bool(value) and all(norm in Threat.KINDS for norm in value)


@functools.cache
def _check_names(kind: type[Any]) -> None:
    """Refuse names of a class that nearly are those of a trait: a misspelt trait would be passed over in silence."""
    knobs = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    values = {name for each in kind.__mro__[:-1] for name in (*vars(each), *vars(each).get("__annotations__", ()))}
    for name in sorted(values - set(NAMES)):
        if name.startswith("_") or name != name.lower() or callable(getattr(kind, name, None)):
            continue  # a method, a constant of its own, or what is nobody's business
        # A knob may be called nearly as a trait is (`norm`); one that differs by less is taken for a slip.
        if near := get_close_matches(name, NAMES, 1, 0.9 if name in knobs else 0.8):
            raise UserError(
                f"the attack {kind.__name__} declares {name}, which is no trait; did you mean {near[0]}? "
                "Write a constant of its own in capitals"
            )

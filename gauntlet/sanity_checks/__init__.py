"""Red flags: signs that a robustness number says more about the evaluation than about the model.

Some checks look at the first images; the others look at the evidence. A flag is a result: it goes into `run.json` and
onto the board. The ideas follow the checks that come with AutoAttack (Croce and Hein 2020, arXiv
2003.01690) and the list of Carlini et al. 2019, arXiv 1902.06705.
"""

import logging
from collections.abc import Callable

from gauntlet.data.dataset import Batch
from gauntlet.errors import described
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.sanity_checks.flag import Flag
from gauntlet.sanity_checks.from_records import clean_at_chance, decisions_beat_scores, from_evidence, noisy_gradients
from gauntlet.sanity_checks.gradients import dead_start, mismatched, non_monotone, shattered
from gauntlet.sanity_checks.model import (
    batch_mates,
    dynamic,
    normalization,
    probabilities,
    randomness,
    reduced_precision,
    training_mode,
)
from gauntlet.sanity_checks.probe import PROBE, Probe
from gauntlet.sanity_checks.reference_attacks import few_classes, one_step, unlimited
from gauntlet.system.foreign_frame import foreign_frame
from gauntlet.threat_model.access import GRADIENT

__all__ = ["PROBE", "Flag", "clean_at_chance", "decisions_beat_scores", "from_evidence", "noisy_gradients", "of_victim"]

log = logging.getLogger(__name__)

Check = Callable[[Probe], Flag | None]

ALWAYS: tuple[Check, ...] = (training_mode, randomness, batch_mates, reduced_precision, normalization)
"""Checks that need no more than decisions of the victim and a look at its modules."""

WITH_GRADIENTS: tuple[Check, ...] = (
    probabilities, dynamic, few_classes, unlimited, one_step, mismatched, shattered, non_monotone, dead_start
)  # fmt: skip
"""Checks of what only gradients suffer from, or that attack with them: for an attacker who has them."""


def of_victim(run: Evaluation, batch: Batch, survivors: set[int]) -> list[Flag]:
    """Return the red flags of the victim itself, from at most `PROBE` images.

    Costs about 50 forward or backward passes of each, up to 150 where attacks find nothing (benchmarks/flags.md).

    Args:
        survivors: ids of the samples that the attack on the true head does not break.
    """
    probe, flags = Probe(run, batch, survivors), []
    for check in (*ALWAYS, *(WITH_GRADIENTS if run.given == GRADIENT else ())):
        try:
            flag = check(probe)
        except Exception as cause:  # the evidence is there; a check that fails must not hide it
            if not foreign_frame(cause):
                log.exception("a check of the victim failed")
            flag = Flag("check-failed", f"{check.__name__}: {described(cause)}")
        if flag is not None:
            flags.append(flag)
    return flags

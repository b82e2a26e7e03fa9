"""Columns of the records: one row per (sample, stage). Imports no torch."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    pass


SCHEMA_VERSION = 1


CLEAN_STAGE = "clean"
"""Every sample has one row of this stage: the prediction on the unperturbed image."""


ATTACK_SCHEMA = pa.schema(
    [
        pa.field("sample", pa.int64(), nullable=False),  # stable id of the image in its split
        pa.field("stage", pa.string(), nullable=False),  # "clean", or "<attack>/<head>", such as "pma/true"
        pa.field("label", pa.int32(), nullable=False),
        pa.field("clean_pred", pa.int32(), nullable=False),
        pa.field("pred", pa.int32(), nullable=False),  # prediction on this stage's candidate; -1 where there is none
        pa.field("broken", pa.bool_(), nullable=False),  # clean row: misclassified as it is
        pa.field("distance", pa.float64(), nullable=False),  # to the clean image, in the norm of the threat
        pa.field("margin", pa.float32(), nullable=False),  # true score minus best other score of the candidate
        pa.field("forwards", pa.int64(), nullable=False),  # forward passes of the defended pipeline for this sample
        pa.field("backwards", pa.int64(), nullable=False),
        pa.field("zero_gradients", pa.int32(), nullable=False),  # steps at which the whole input gradient was zero
        pa.field("bad_gradients", pa.int32(), nullable=False),  # steps with a NaN or infinite entry in the gradient
        pa.field("error", pa.string()),  # null, or why this candidate does not count; such a run is never ranked
    ]
)


RANDOM_SCHEMA = pa.schema([*ATTACK_SCHEMA, *(pa.field(name, pa.float32()) for name in ("wrong_share", "fresh_share"))])
"""Of a randomized defense, whose `broken` says that the majority is wrong. `wrong_share` of the draws are wrong that
choose the worst candidate of a sample, `fresh_share` of the verdicts in others that say how bad it is: of those draws,
or of a vote 0 or 1. Null in rows with an error. A deterministic defense has records without these columns."""


FOOLED = pa.field("fooled", pa.int64())  # of a mixture whose shares are exact: its wrong members; bit i is member i


ACCEPTANCE = pa.field("acceptance", pa.float32())
"""Of a defense that rejects: the image is accepted where this is 0 or more. A candidate is `broken` where its class is
wrong and it is accepted, a clean image where it is wrong or rejected. Of a randomized defense it is the share of the
draws that accept, less one half. Null in rows with an error."""


PHASE = pa.field("phase", pa.string())
"""The part of an attack that its last pass on the sample belonged to; null where the attack names no parts."""


TARGET = pa.field("target", pa.int32())
"""Of a targeted attack: the class that a sample is to become, in each of its rows. A candidate is `broken` where its
prediction is that class, and its `margin` is the best other score minus that of the target; clean rows are as ever."""


PARAMETERS = pa.field("parameters", pa.list_(pa.float64()))
"""Of a threat with parameters, such as a rotation: those of the candidate, in units of their limits; `distance` is the
largest of them. Null in clean rows and rows with an error."""


def rows(columns: dict[str, Sequence[Any]]) -> pa.Table:
    """Return a table of the schema that has these columns, of equal length."""
    return pa.table(columns, schema=_schema(columns))


def _schema(names: Iterable[str]) -> pa.Schema:
    there = set(names)
    if there.issuperset(CERTIFICATE_SCHEMA.names):
        return pa.schema([*CERTIFICATE_SCHEMA, *(extra for extra in (*ATTRIBUTION, PILOT) if extra.name in there)])
    schema = RANDOM_SCHEMA if there.issuperset(RANDOM_SCHEMA.names) else ATTACK_SCHEMA
    extras = (FOOLED, PHASE, ACCEPTANCE, TARGET, PARAMETERS)
    return pa.schema([*schema, *(extra for extra in extras if extra.name in there)])


CERTIFICATE_SCHEMA = pa.schema(
    [
        pa.field("sample", pa.int64(), nullable=False),  # stable id of the image in its split
        pa.field("label", pa.int32(), nullable=False),
        pa.field("predict", pa.int32(), nullable=False),  # -1: abstains, which counts as wrong
        pa.field("radius", pa.float64(), nullable=False),  # rounded down; 0 where it abstains or nothing is certified
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("samples_used", pa.int64(), nullable=False),  # random draws, those of the selection among them
        pa.field("kind", pa.string(), nullable=False),  # sound_prob | sound_det | estimate | claimed
        pa.field("confidence", pa.float64(), nullable=False),  # of this certificate by itself
        pa.field("margin", pa.float64(), nullable=False),  # least margin over the ball; NaN: not what was bounded
        pa.field("forwards", pa.int64(), nullable=False),  # passes of one network; of bounds 1, the prediction
        pa.field("trials", pa.int64(), nullable=False),  # draws behind the bound; bands that vote
        pa.field("counts", pa.list_(pa.int64()), nullable=False),  # of these for `predict`, per network that votes
        pa.field("lower", pa.list_(pa.float64()), nullable=False),  # lower bounds of these shares
        pa.field("stop", pa.string(), nullable=False),  # why sampling, or branch and bound, ended; or ""
        pa.field("error", pa.string()),  # null, or why this is no certificate; such a run never counts
    ]
)
"""Version 1. Parts of a run of the kind "certificate"."""


ATTRIBUTION = (
    pa.field("cosine", pa.float64()),
    pa.field("overlap", pa.float64()),
)
"""Of certificates for attributions, at the eps of the threat: the least cosine of the stored map with any other one, -1
where nothing is certified, and the least share of its most important pixels that stay so; NaN: not asked. Null in rows
with an error."""


PILOT = pa.field("pilot", pa.list_(pa.int64()))
"""Of certificates by a confidence sequence: votes for the class in the selection, which its prior has, per network."""

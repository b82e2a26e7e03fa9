"""Certificates for attributions held against the maps that the run stores: what these prove is computed anew."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

from gauntlet.certification.attribution import Attribution, PublishedAttribution
from gauntlet.certification.attribution_bounds import ROUNDING, certified_overlap, sampling_error
from gauntlet.certification.sequential_test import floored
from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import MAPS, RunFolder
from gauntlet.jobs.certification_job import CertificationSetup
from gauntlet.verification.row_checks import entries

CLOSE = 2e-6
"""By how much a radius or cosine that is computed anew may differ."""


def attribution_problems(run: RunFolder, table: pd.DataFrame, chunk: int, job: CertificationSetup) -> Iterator[str]:
    """Yield a line for each certificate of a chunk that the stored maps do not give; nothing for other certifiers."""
    certifier = job.work.certifier[1]
    if not isinstance(certifier, Attribution):
        return
    right = table[table["error"].isna()]
    try:
        arrays, stages = run.read_staged_examples(chunk)
    except FileNotFoundError:
        arrays, stages = {}, [MAPS]
    if not {"sample", "z"} <= arrays.keys() or stages != [MAPS] or arrays["z"].ndim != 4:
        if len(right):
            yield f"chunk {chunk}: its attributions are missing, so that nothing shows what is claimed of them"
        return
    place = {int(sample): at for at, sample in enumerate(arrays["sample"])}
    for row in entries(right):
        if int(row.sample) not in place:
            yield f"sample {row.sample}: its attribution is missing"
        else:
            yield from (f"sample {row.sample}: {line}" for line in _problems(row, arrays["z"][place[row.sample]], job))


def _problems(row: Any, stored: Any, job: CertificationSetup) -> Iterator[str]:
    certifier: Any = job.work.certifier[1]
    if row.trials != certifier.samples or len(row.counts):
        yield f"{row.trials} draws are not those of this certifier"
    if not np.isfinite(stored).all() or np.linalg.norm(stored.astype(float)) > 1 + ROUNDING:
        yield "its attribution is no mean of vectors of unit length"
        return
    if isinstance(certifier, PublishedAttribution):
        claims = certifier.claims(stored[None].astype(float), job.work.threat)
        wanted = float(claims.radius[0]), float(claims.cosine[0]), float(claims.overlap[0])
    else:
        wanted = recomputed(stored.astype(float), certifier, job.work.threat.radius)
    names = ("radius", "cosine", "overlap")
    for name, value, said in zip(names, wanted, (row.radius, row.cosine, row.overlap), strict=True):
        if not np.isclose(value, said, rtol=0, atol=CLOSE, equal_nan=True):
            yield f"its attribution gives the {name} {value:.6g}, the record says {said:.6g}"


def recomputed(stored: Any, certifier: Attribution, eps: float) -> tuple[float, float, float]:
    """Return radius, cosine and overlap that a map [C, H, W] proves, by the distribution of one entry of a point of the
    ball: its square in parts of r^2 is beta distributed, with the parameters 1/2 and (d + 1) / 2.

    Raises:
        UserError: the map has fewer pixels than the overlap is about.
    """
    dimensions, pixels = stored.size, stored[0].size
    if certifier.top > pixels:
        raise UserError(f"an attribution of {pixels} pixels has no {certifier.top} most important ones")
    law, ball = beta(0.5, (dimensions + 1) / 2), certifier.radius(dimensions)
    norm = float(np.sqrt((stored**2).sum()))
    error = float(sampling_error(norm, certifier.samples, certifier.alpha)) + ROUNDING
    room = (norm * np.sqrt(1 - certifier.cosine**2) - error) / 2
    radius = float(floored(np.array(2 * ball * np.sqrt(law.ppf(min(room, 1.0))) if room > 0 else 0.0)))
    if not np.isfinite(eps):
        return radius, np.nan, np.nan
    moved = error + 2 * float(law.cdf(min(1.0, (eps / (2 * ball)) ** 2)))
    cosine = float(np.cos(np.arcsin(moved / norm))) if moved < norm else -1.0
    importance = np.sqrt((stored**2).sum(0)).reshape(1, -1)
    return radius, cosine, float(certified_overlap(importance, certifier.top, moved)[0]) / certifier.top


def attribution_difference(row: Any, again: Any) -> str:
    """Return how a certificate differs from one made anew; empty: by no more than gradients of a few draws, which may
    lie on either side of a kink."""
    for name, close in (("radius", 0.02 * max(row.radius, again.radius)), ("cosine", 0.01), ("overlap", 0.2)):
        mine, other = getattr(row, name), getattr(again, name)
        if not np.isclose(mine, other, rtol=0, atol=close + CLOSE, equal_nan=True):
            return f"the {name} is {other:.6g}, the record says {mine:.6g}"
    return ""

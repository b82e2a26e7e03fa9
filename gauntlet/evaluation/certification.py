"""A certifier on a victim: the certificates of one chunk of samples, as rows. Nothing here touches files."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from gauntlet.certification.certifier import ABSTAIN, Certificates, Certifier, Work
from gauntlet.data.dataset import Batch
from gauntlet.data.validation import check_images
from gauntlet.errors import UserError, described
from gauntlet.evaluation.deployment import Deployed
from gauntlet.evidence.schema import rows
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

log = logging.getLogger(__name__)

STAGE = "certificate"
"""Name under which costs are booked, and of the stream of random draws."""


@dataclass(frozen=True)
class Certification:
    """A certifier on a victim: everything that one run needs, built.

    Args:
        deployed: the defense.
        certifier: its name and the certifier.
        seed: of every random draw.
    """

    deployed: Deployed
    certifier: tuple[str, Certifier]
    threat: Threat
    classes: int
    seed: int
    batch_size: int
    device: torch.device

    def chunk(
        self, batch: Batch, advance: Callable[[int, int], None], met: dict[int, Tensor] | None = None
    ) -> pa.Table:
        """Return the rows of the samples of one chunk.

        Args:
            met: takes sample -> adversarial example [C, H, W], where the certifier met one; for a judge.

        Raises:
            UserError: pixels outside the box, labels outside the classes, or a defense that cannot predict.
        """
        ids, x, y = (t[batch.ids.argsort()] for t in batch)
        check_images(ids, x, y, self.classes, (self.threat.low, self.threat.high))
        certifier = self.certifier[1]
        size = len(ids) if certifier.whole else self.batch_size
        pieces = [slice(at, at + size) for at in range(0, len(ids), size)]
        return pa.concat_tables([self._some(ids[at], x[at], y[at], advance, met) for at in pieces])

    def _some(
        self, ids: Tensor, x: Tensor, y: Tensor, advance: Callable[[int, int], None], met: dict[int, Tensor] | None
    ) -> pa.Table:
        name, certifier = self.certifier
        here = ids.to(self.device, copy=True)
        try:
            with torch.no_grad():
                found = certifier(
                    self.deployed.victim,
                    x.to(self.device, copy=True),
                    y.to(self.device, copy=True) if certifier.sees_label else None,
                    threat=self.threat,
                    rng=Rng(self.seed, here, STAGE),
                    work=Work(self.batch_size, advance),
                )
        except UserError:
            raise
        except (
            Exception,
            SystemExit,
            GeneratorExit,
        ) as cause:  # a crash is a record: it certifies nothing and does not stop a sweep
            log.exception("%s failed on %d samples", name, len(ids))
            return _rows(ids, y, _nothing(len(ids)), certifier, described(cause))
        if met is not None:
            met.update({int(ids[at]): z.cpu() for at, z in found.examples.items()})
        return _rows(ids, y, found, certifier, None)


def _rows(ids: Tensor, y: Tensor, found: Certificates, certifier: Certifier, error: str | None) -> pa.Table:
    count = len(ids)
    return rows(
        {
            "sample": ids.tolist(),
            "label": y.tolist(),
            "predict": found.predict.tolist(),
            "radius": found.radius.tolist(),
            "correct": (found.predict == y).tolist(),
            "samples_used": found.samples.tolist(),
            "kind": [certifier.kind] * count,
            "confidence": [certifier.confidence] * count,
            "margin": found.margin.tolist(),
            "forwards": found.forwards.tolist(),
            "trials": found.trials.tolist(),
            "counts": found.counts.tolist(),
            "lower": found.lower.tolist(),
            "stop": list(found.stop),
            "error": [error] * count,
        }
    )


def _nothing(count: int) -> Certificates:
    zeros = torch.zeros(count)
    return Certificates.proven(torch.full((count,), ABSTAIN), zeros, torch.full((count,), torch.nan), zeros)

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
        self,
        batch: Batch,
        advance: Callable[[int, int], None],
        met: dict[int, Tensor] | None = None,
        maps: dict[int, Tensor] | None = None,
    ) -> pa.Table:
        """Return the rows of the samples of one chunk.

        Args:
            met: takes sample -> adversarial example [C, H, W], where the certifier met one; for a judge.
            maps: takes sample -> attribution [C, H, W], where those are what is certified.

        Raises:
            UserError: pixels outside the box, labels outside the classes, or a defense that cannot predict.
        """
        ids, x, y = (t[batch.ids.argsort()] for t in batch)
        check_images(ids, x, y, self.classes, (self.threat.low, self.threat.high))
        certifier = self.certifier[1]
        size = len(ids) if certifier.whole else self.batch_size
        pieces = [slice(at, at + size) for at in range(0, len(ids), size)]
        found = [self._some(ids[at], x[at], y[at], advance) for at in pieces]
        for at, (_, certificates) in zip(pieces, found, strict=True):
            if met is not None:
                met.update({int(ids[at][row]): z.cpu() for row, z in certificates.examples.items()})
            if maps is not None and certificates.maps is not None:
                maps.update(zip(ids[at].tolist(), certificates.maps, strict=True))
        return pa.concat_tables([table for table, _ in found], promote_options="default")

    def _some(
        self, ids: Tensor, x: Tensor, y: Tensor, advance: Callable[[int, int], None]
    ) -> tuple[pa.Table, Certificates]:
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
            found = _nothing(len(ids))
            return _rows(ids, y, found, certifier, described(cause)), found
        return _rows(ids, y, found, certifier, None), found


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
            **{name: list(column) for name, column in found.columns.items()},
        }
    )


def _nothing(count: int) -> Certificates:
    zeros = torch.zeros(count)
    return Certificates.proven(torch.full((count,), ABSTAIN), zeros, torch.full((count,), torch.nan), zeros)

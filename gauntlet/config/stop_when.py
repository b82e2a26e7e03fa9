"""When a run may end before its last image."""

from dataclasses import dataclass

from gauntlet.knobs import Knobs, knob


@dataclass(frozen=True)
class StopWhen(Knobs, key="stop_when"):
    """What is enough.

    Args:
        interval: the run ends after the first chunk at which the 95 % interval of its robust accuracy reaches at most
            this far to each side, as half of its width; None: it ends when all images are attacked. The interval holds
            however often one looks (`gauntlet.metrics.anytime_interval`), and the images are taken in random order.

    Raises:
        UserError: a value outside (0, 0.5).
    """

    interval: float | None = knob(None, above=0, below=0.5, whole=False, optional=True)

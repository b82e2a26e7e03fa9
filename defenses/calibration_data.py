"""Which images the parameters of a defense were fitted to: never those that are evaluated."""

from dataclasses import dataclass

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob


@dataclass(frozen=True)
class CalibrationData(Knobs, key="defense.calibration"):
    """Where fitted parameters come from.

    Args:
        split: validation or train; empty: not known, which the card says.
        images: how many.
        beta: share of right answers under attack that the fit was to keep.
        digest: of the images of that split, "sha256:<hex>"; an evaluation on images of this digest is refused.

    Raises:
        UserError: the test part, or no such part.
    """

    split: str = ""
    images: int = knob(0, least=0)
    beta: float = 0.0
    digest: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split == "test":
            raise UserError(
                "defense.calibration.split=test is what is evaluated: parameters fitted to it prove nothing"
            )
        if self.split not in ("", "train", "validation"):
            raise UserError(f"defense.calibration.split={self.split!r} is unknown; choose validation or train")

    def check(self, digest: str) -> None:
        """Refuse an evaluation on the images of this digest. Raises UserError."""
        if self.digest and self.digest == digest:
            raise UserError(
                "the parameters of the defense were fitted to the images that are evaluated "
                "(defense.calibration.digest); calibrate on others, or evaluate on others"
            )

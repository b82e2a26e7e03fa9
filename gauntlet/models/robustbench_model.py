"""An entry of RobustBench's model zoo (Croce et al. 2021, arXiv 2010.09670), through its own package."""

import contextlib
import io

from torch import nn

from gauntlet.errors import UserError, reason
from gauntlet.models.optional import needed
from gauntlet.models.published_accuracy import of_entry
from gauntlet.models.wrapped import Wrapped

THREATS = ("Linf", "L2", "corruptions", "corruptions_3d")


class RobustBenchModel(Wrapped):
    """An entry of RobustBench. It normalizes by itself, as all of its entries do; its published accuracy is checked.

    The files of its WideResNet and PreActResNet entries load into wrn, preact_resnet18 and preact_resnet18_cifar too,
    without the package.

    Args:
        name: such as Carmon2019Unlabeled.
        dataset: that it was trained on: cifar10, cifar100 or imagenet.
        threat: that it was trained against: Linf, L2, corruptions.
        folder: of the downloaded weights.
        channels: of the images.

    Raises:
        UserError: the package is not installed, or it cannot give the entry.
    """

    def __init__(
        self, name: str, dataset: str = "cifar10", threat: str = "Linf", folder: str = "models", channels: int = 3
    ) -> None:
        if threat not in THREATS:
            raise UserError(f"model.threat={threat} is unknown; choose {', '.join(THREATS)}")
        super().__init__(_loaded(name, dataset, threat, folder), (0.0,), (1.0,), channels)
        self.origin = f"{type(self.model).__name__} of RobustBench: {name}, {dataset}, {threat}"
        package = needed("robustbench", "robustbench", "robustbench")
        share = of_entry(name, dataset, threat, str(package.__file__))
        self.clean = {} if share is None else {dataset: share}


def _loaded(name: str, dataset: str, threat: str, folder: str) -> nn.Module:
    package = needed("robustbench.utils", "robustbench", "robustbench")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            network: nn.Module = package.load_model(
                model_name=name, model_dir=folder, dataset=dataset, threat_model=threat
            )
    except KeyError:
        raise UserError(
            f"RobustBench has no {name} for {dataset} and {threat}; check model.name, model.dataset and model.threat"
        ) from None
    except Exception as cause:  # downloads and files raise many types
        raise UserError(
            f"RobustBench cannot give {name} ({reason(cause)}); without network put its file into "
            f"{folder}/{dataset}/{threat}, or load it with checkpoint=FILE into model=wrn or preact_resnet18"
        ) from None
    return network

"""From the composed configuration to one typed setup, which both kinds of job share.

`request` reads all that can be read without data or networks, so that a mistake is told before anything is loaded or
trained; `load` brings data set and defense.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gauntlet.config import environment
from gauntlet.config.runtime import Runtime
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Dataset, Split
from gauntlet.data.validation import data_set
from gauntlet.errors import UserError
from gauntlet.evaluation.deployment import Deployed, deploy
from gauntlet.evaluation.predicted_labels import PredictedLabels
from gauntlet.evidence.stable_names import first_name, to_record
from gauntlet.jobs.clean_accuracy import check_clean_accuracy, declared_accuracy
from gauntlet.jobs.model_description import DESCRIPTION
from gauntlet.threat_model.threat import Threat
from gauntlet.tracking import Tracker

KEYS = (
    "dataset", "model", "threat", "defense", "attack", "certifier", "runtime", "logger",
    "protocol", "seed", "heads", "access", "draws", "checkpoint", "checkpoint_key", "surrogates",
    "runs_dir", "trusted_packages", "expected_clean", "stop_when", "estimate", *DESCRIPTION,
)  # fmt: skip
"""Keys at the root of the configuration of a run."""

LATER = ("checkpoint_key", "expected_clean", "stop_when", "estimate", *DESCRIPTION)
"""Keys that runs of version 0.1.0 do not have; null means what it did."""


@dataclass(frozen=True)
class Request:
    """What was asked for, checked; no data and no network has been touched yet.

    Attributes:
        cfg: the checked configuration.
        recorded: the same as a record holds it: values of the environment as they were typed.
        choices: group -> name of the choice.
        command: what the user can paste to get this run.
    """

    cfg: DictConfig
    recorded: dict[str, Any]
    choices: Mapping[str, str]
    command: str
    runtime: Runtime
    threat: Threat
    tracker: Tracker

    @property
    def seed(self) -> int:
        """Return the seed of every random draw."""
        seed: int = self.cfg.seed
        return seed

    @property
    def enough(self) -> float | None:
        """Return what half of the interval of robust accuracy is enough; None: all images are attacked."""
        node = self.cfg.stop_when
        width: float | None = None if node is None else build(node).interval
        return width

    @property
    def runs_dir(self) -> Path:
        """Return the folder of all runs."""
        return Path(self.cfg.runs_dir)

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration with its components by their stable names, for hashes."""
        config: dict[str, Any] = to_record(OmegaConf.to_container(self.cfg))
        return config

    def choice(self, group: str) -> str:
        """Return the name of the choice of a group, or of the class where the node was written out."""
        return self.choices.get(group, first_name(str(self.cfg[group]["_target_"])).split(".")[-1].lower())


@dataclass(frozen=True)
class Setup:
    """What both kinds of job need, built.

    Attributes:
        deploy: from the node of a defense to the deployed defense, trained first where that has to be.
        target: the defense under evaluation.
    """

    request: Request
    device: torch.device
    dataset: Dataset
    split: Split
    deploy: Callable[[DictConfig], Deployed]
    target: Deployed

    def sharing(self, runtime: Runtime) -> "Setup":
        """Return the same for a share of the work."""
        return replace(self, request=replace(self.request, runtime=runtime))


def request(composed: DictConfig, choices: Mapping[str, str], command: str) -> Request:
    """Check the configuration and build what needs neither data nor networks.

    Args:
        composed: as Hydra composed it.
        choices: group -> name of the choice; names the folders.
        command: what the user can paste to get this run.

    Raises:
        UserError: a key, type or value is unfit.
    """
    cfg = checked(composed, KEYS)
    runtime, threat, tracker = (build(cfg[key]) for key in ("runtime", "threat", "logger"))
    for key, found, wanted in (("threat", threat, Threat), ("runtime", runtime, Runtime)):
        if not isinstance(found, wanted):
            raise UserError(f"{key} must be a {wanted.__module__}.{wanted.__name__}, not {type(found).__name__}")
    _check_key(cfg)
    recorded = to_record(environment.recorded(composed, cfg))
    return Request(cfg, recorded, choices, command, runtime, threat, tracker)


def _check_key(cfg: DictConfig) -> None:
    """Refuse a checkpoint key that no network of the defense would take."""
    key = cfg.checkpoint_key
    if key is None:
        return
    if cfg.checkpoint in (None, "included"):
        raise UserError(f"checkpoint_key={key} says which weights of a file are meant; give checkpoint=FILE with it")
    parts: Any = OmegaConf.select(cfg, "defense.parts") or {}
    if not any(part.get("weights_key") == key for part in parts.values()):
        raise UserError(
            f"checkpoint_key={key} reaches no network of the defense; in its YAML write "
            "weights_key: ${checkpoint_key} below weights: ${checkpoint}"
        )


def load(asked: Request, *, fold: bool, data: Dataset | None = None) -> Setup:
    """Build the data set, and the defense with its weights. Writes nothing but trained weights to their cache.

    Args:
        fold: whether gradients may come from copies with batch norm folded away.
        data: the data set, where that of the configuration is not to be read.

    Raises:
        UserError: the data or a model is unfit.
    """
    runtime = asked.runtime if fold else replace(asked.runtime, fold=False)
    torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.allow_tf32 = False  # verdicts and certificates are about float32
    torch.backends.cuda.matmul.allow_tf32 = False
    device = runtime.torch_device()
    dataset = data or data_set(build(asked.cfg.dataset))
    split = dataset.split("test")
    if asked.cfg.attack is not None:
        asked.threat.check_reach(tuple(split.read(slice(0, 1)).x.shape[1:]))
    loaded = partial(
        deploy,
        dataset=dataset,
        cache=asked.runs_dir / "_trained",
        runtime=runtime,
        device=device,
        tracker=asked.tracker,
    )
    target = loaded(asked.cfg.defense)
    if getattr(dataset, "predicted_labels", False):
        if asked.enough is not None:
            raise UserError(f"{dataset.name} has no labels, and stop_when no use for predicted ones; leave it out")
        split = PredictedLabels.of(split, target.victim, asked.seed, device, runtime.batch_size)
    declared = declared_accuracy(asked.cfg, target.victim, dataset.name)
    check_clean_accuracy(declared, target.victim, split, asked.seed, device, runtime.batch_size)
    return Setup(asked, device, dataset, split, loaded, target)

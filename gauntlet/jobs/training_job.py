"""From a composed configuration to trained weights on disk."""

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from gauntlet.config import environment
from gauntlet.config.validate import build, checked
from gauntlet.data.validation import data_set
from gauntlet.training.distributed import join
from gauntlet.training.trained_network import TrainedNetwork

KEYS = ("dataset", "model", "recipe", "runtime", "logger", "seed", "runs_dir", "trusted_packages")


def train(composed: DictConfig) -> Path:
    """Return the folder of the trained weights; trained there unless they are there already.

    Raises:
        UserError: the configuration, the data or the model is unfit, or the folder cannot be written.
    """
    cfg = checked(composed, KEYS)
    environment.recorded(composed, cfg)  # so that the record of the training says what was typed
    join()
    runtime, tracker = build(cfg.runtime), build(cfg.logger)
    torch.set_num_threads(runtime.threads)
    dataset = data_set(build(cfg.dataset))
    model, recipe = (OmegaConf.to_container(node) for node in (cfg.model, cfg.recipe))
    assert isinstance(model, dict)
    assert isinstance(recipe, dict)
    part = TrainedNetwork(model, recipe, seed=cfg.seed)  # type: ignore[arg-type]
    cache = Path(cfg.runs_dir) / "_trained"
    device, progress = runtime.torch_device(), runtime.progress
    return part.train(
        dataset, cache, device=device, progress=progress, tracker=tracker,
        channels_last=runtime.channels_last, compiled=runtime.compile,
    )  # fmt: skip

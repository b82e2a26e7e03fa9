"""How a training is carried out: what changes the weights by the rounding of sums at most, and is in no key."""

from dataclasses import dataclass

import torch

from gauntlet.config.runtime import Runtime
from gauntlet.knobs import Knobs, knob


@dataclass(frozen=True)
class TrainingRuntime(Knobs, key="runtime"):
    """Where a network is trained, and how the machine is used.

    Like the kind of machine and its number of threads, these change the order of sums and nothing else, so weights are
    found by the same key whichever were set. A smaller number format changes more: it is `recipe.precision`.

    Args:
        device: "auto" (the first CUDA device, else the CPU; under torchrun that of the process), "cpu" or "cuda:1".
        threads: of a process, 1 to 1024.
        channels_last: keep images and weights in the order that convolutions on GPUs prefer.
        compile: let torch.compile make the passes through the network faster; the first steps take minutes.
        progress: show a progress bar.

    Raises:
        UserError: a value outside its range.
    """

    device: str = "auto"
    threads: int = knob(1, least=1, most=Runtime.MOST_THREADS)
    channels_last: bool = False
    compile: bool = False
    progress: bool = True

    def torch_device(self) -> torch.device:
        """Return the device. Raises UserError where there is no such one."""
        return Runtime(device=self.device).torch_device()

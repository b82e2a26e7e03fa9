"""How a run is carried out. Nothing here changes the answer, so nothing here is part of a run's identity; the one
exception is the chunk of an attack that compares samples (docs/decisions/0006-samples-compared-within-a-chunk.md)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gauntlet.config.devices import ALL, best, checked, every
from gauntlet.errors import UserError
from gauntlet.evidence.example_storage import StoragePolicy
from gauntlet.knobs import Knobs, choice, knob


@dataclass(frozen=True)
class Runtime(Knobs, key="runtime"):
    """Where and in what pieces the work is done.

    Args:
        device: "auto" (an accelerator, CUDA before XPU before MPS, else the CPU), "cpu", "cuda" or "cuda:1".
        devices: several devices of this machine, a process for each, which share the chunks: "all", or a list such as
            ["cuda:0", "cuda:1"]; null: `device` alone.
        threads: of a process, 1 to 1024. More than one thread on busy cores costs more than it gives.
        batch_size: samples per forward pass.
        chunk: samples per evidence file: the unit of resuming and of sharding. The run's first process fixes it. Where
            it holds several batches, the calls of an attack share passes, which stay full as samples fall.
        shards, shard: this process takes the chunks whose index is `shard` modulo `shards`.
        gradients: "float32", or "bfloat16" for the gradient passes; verdicts are always float32.
        fold: differentiate through copies with batch norm folded into the convolutions, channels last, which is faster
            on a CPU. The plain network judges.
        keep: adversarial examples to store: "all", "broken", "first N" (those broken of the first N images) or "none".
        workers: threads that read and decode the next chunk while this one is attacked; 0: that is done in between.
        progress: show a progress bar.

    Raises:
        UserError: a value outside its range.
    """

    GRADIENTS: ClassVar[dict[str, torch.dtype | None]] = {"float32": None, "bfloat16": torch.bfloat16}

    MOST_THREADS: ClassVar[int] = 1024

    device: str = "auto"
    devices: str | list[str] | None = None
    threads: int = knob(1, least=1, most=MOST_THREADS)
    batch_size: int = knob(256, least=1)
    chunk: int = knob(256, least=1)
    shards: int = knob(1, least=1)
    shard: int = knob(0, least=0)
    gradients: str = choice("float32", GRADIENTS)
    fold: bool = True
    keep: str = "broken"
    workers: int = knob(1, least=0, most=MOST_THREADS)
    progress: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard >= self.shards:
            raise UserError(
                f"runtime.shard={self.shard} must lie in 0 to {self.shards - 1} (runtime.shards={self.shards})"
            )
        if isinstance(self.devices, str) and self.devices != ALL:
            object.__setattr__(self, "devices", [self.devices])
        if self.devices is not None and self.device != "auto":
            raise UserError(f"runtime.device={self.device} is one device, runtime.devices several; give one of the two")
        if self.devices is not None and not self.devices:
            raise UserError("runtime.devices=[] names no device; give all, a list such as [cuda:0,cuda:1], or null")
        StoragePolicy.of(self.keep)

    def torch_device(self) -> torch.device:
        """Return the device of this process. Raises UserError where there is none of that name."""
        if self.devices is not None:
            return checked(self.every_device()[0], "runtime.devices")
        return best() if self.device == "auto" else checked(self.device, "runtime.device")

    def every_device(self) -> list[str]:
        """Return the devices that share the work. Raises UserError where one is not there."""
        if self.devices is None:
            return [self.device]
        if self.devices == ALL:
            return every()
        return [str(checked(name, "runtime.devices")) for name in self.devices]

"""The processes that train one network together: each takes its part of every batch, and the gradients are averaged.

Started by `torchrun --nproc-per-node=N train.py ...`. Draws are keyed by sample ids, so that no process changes any of
them, and batch norm takes the statistics of the whole batch: the training is that of one process, but for the order of
sums. Gradients are averaged by hand and not by DistributedDataParallel, whose hooks fire in `backward` alone: a
perturbation of the weights takes its gradient beside it, and an attack takes one for the images only.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gauntlet.errors import UserError, reason


@dataclass(frozen=True)
class ProcessGroup:
    """rank: number of this process; size: how many there are; every method needs all of them."""

    rank: int = 0
    size: int = 1

    def share(self, items: Tensor) -> Tensor:
        """Return this process's part of the first dimension, which `size` must divide."""
        return items.chunk(self.size)[self.rank] if self.size > 1 else items

    def gather(self, items: Tensor) -> Tensor:
        """Return the parts of all processes, put together."""
        if self.size == 1:
            return items
        parts = [torch.empty_like(items) for _ in range(self.size)]
        dist.all_gather(parts, items.contiguous())
        return torch.cat(parts)

    def mean(self, tensors: list[Tensor]) -> None:
        """Average in place, in one message."""
        if self.size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            parts = torch.split(flat / self.size, [tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def all(self, answer: bool) -> bool:
        """Return whether every process says so."""
        return answer if self.size == 1 else int(self.sum(torch.tensor(int(answer), device=_device()))) == self.size

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


ALONE = ProcessGroup()


def join() -> ProcessGroup:
    """Return the process group that `torchrun` made, or one of a single process. Raises UserError where the processes
    do not meet."""
    if not dist.is_available() or "WORLD_SIZE" not in os.environ:
        return ALONE
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        except (RuntimeError, ValueError) as cause:
            raise UserError(f"the processes do not meet ({reason(cause)}); start them by torchrun") from None
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")

"""The base of modes that look at every operation of a block."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation in `__torch_dispatch__` while it is entered, without loading the compiler of torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from wrapping the mode for its compiler, whose import takes longer than a small run."""
        return False

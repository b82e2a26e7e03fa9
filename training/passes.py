"""The price of training in passes of samples through the network, which does not depend on the machine."""

from torch import Tensor, nn


class Passes:
    """Counts what goes through a network between `with Passes(model) as passes` and the end of the block."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.forwards = 0
        self.backwards = 0

    def __enter__(self) -> "Passes":
        self._handle = self._model.register_forward_hook(self._forward)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()

    def _forward(self, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            self.forwards += len(output)
            if output.requires_grad:
                output.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

"""The price of training in passes of samples through the network, which does not depend on the machine."""

from torch import Tensor, nn


class Passes:
    """Counts what goes through networks between `with Passes(model, ...) as passes` and the end of the block."""

    def __init__(self, *networks: nn.Module) -> None:
        self._networks = networks
        self.forwards = 0
        self.backwards = 0

    def __enter__(self) -> "Passes":
        self._handles = [network.register_forward_hook(self._forward) for network in self._networks]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _forward(self, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            self.forwards += len(output)
            if output.requires_grad:
                output.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

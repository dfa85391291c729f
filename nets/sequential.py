"""A list of modules in torch's manner, run with as few kernels as they need."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from convatlas.nets.layers import Conv2d, Linear
from convatlas.ops import functional as ops

ACTIVATIONS = {nn.ReLU: "relu", nn.ReLU6: "relu6"}

Step = tuple[Callable[..., Tensor], tuple]


class FusedSequential(nn.Sequential):
    """torch.nn.Sequential, with its state_dict keys; a Conv2d, the BatchNorm2d and the ReLU behind it are one kernel.

    A Linear and the ReLU behind it are one kernel too. The last module may be given `residual` and `out`, as Conv2d takes them.
    """

    def forward(self, x: Tensor, **epilogue: Any) -> Tensor:
        """Raises ShapeError, DtypeError, BackendError, as the modules do."""
        *steps, (last, fused) = self._steps()
        for run, given in steps:
            x = run(x, *given)
        return last(x, *fused, **epilogue)

    _found: tuple[list[nn.Module], list[Step]] = [], []

    def _steps(self) -> list[Step]:
        """Every module, or an op of ours, and what it is given behind its input: the batch norm and the activation behind it."""
        modules, steps = self._found
        if modules and modules == [*self._modules.values()]:  # modules are equal where they are one
            return steps
        steps = []
        for module in self:
            last, given = steps[-1] if steps else (None, ())
            activation = ACTIVATIONS.get(type(module))
            if isinstance(last, Conv2d) and given == (None, None) and isinstance(module, nn.BatchNorm2d):
                steps[-1] = last, (module, None)
            elif isinstance(last, (Conv2d, Linear)) and given[-1] is None and activation:
                steps[-1] = last, (*given[:-1], activation)
            elif isinstance(module, (Conv2d, Linear)):
                steps.append((module, (None, None) if isinstance(module, Conv2d) else (None,)))
            else:
                steps.append((partial(_activated, activation) if activation else module, ()))
        self._found = [*self._modules.values()], steps
        return steps

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickle and copy.deepcopy, without the steps: a copy finds its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_found"}


def _activated(name: str, x: Tensor, **epilogue: Any) -> Tensor:
    """An activation with nothing before it to be fused into."""
    return getattr(ops, name)(x, **epilogue)

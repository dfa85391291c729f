"""A list of modules in torch's manner, run with as few kernels as they need."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from convatlas.nets.layers import Conv2d, Linear
from convatlas.ops import functional as ops

ACTIVATIONS = {nn.ReLU: "relu", nn.ReLU6: "relu6"}

Step = tuple[nn.Module, nn.BatchNorm2d | None, str | None]


class FusedSequential(nn.Sequential):
    """torch.nn.Sequential, with its state_dict keys; a Conv2d, the BatchNorm2d and the ReLU behind it are one kernel.

    A Linear and the ReLU behind it are one kernel too. The last module may be given `residual` and `out`, as Conv2d takes them.
    """

    def forward(self, x: Tensor, **epilogue: Any) -> Tensor:
        """Raises ShapeError, DtypeError, BackendError, as the modules do."""
        steps = self._steps()
        for step in steps[:-1]:
            x = _run(step, x)
        return _run(steps[-1], x, **epilogue)

    _found: tuple[list[nn.Module], list[Step]] = [], []

    def _steps(self) -> list[Step]:
        """(module, batch norm, activation): every module with what is fused into it."""
        modules, steps = self._found
        if modules and modules == [*self._modules.values()]:  # modules are equal where they are one
            return steps
        steps = []
        for module in self:
            last, bn, activation = steps[-1] if steps else (None, None, None)
            if isinstance(module, nn.BatchNorm2d) and isinstance(last, Conv2d) and bn is activation is None:
                steps[-1] = last, module, None
            elif type(module) in ACTIVATIONS and isinstance(last, (Conv2d, Linear)) and activation is None:
                steps[-1] = last, bn, ACTIVATIONS[type(module)]
            else:
                steps.append((module, None, None))
        self._found = [*self._modules.values()], steps
        return steps

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickle and copy.deepcopy, without the steps: a copy finds its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_found"}


def _run(step: Step, x: Tensor, **epilogue: Any) -> Tensor:
    module, bn, activation = step
    if isinstance(module, Conv2d):
        return module(x, bn, activation, **epilogue)
    if isinstance(module, Linear):
        return module(x, activation)
    if type(module) in ACTIVATIONS:  # nothing before it to be fused into
        return getattr(ops, ACTIVATIONS[type(module)])(x, **epilogue)
    return module(x, **epilogue)

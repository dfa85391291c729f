"""Every op that runs, held to the reference on the very tensors that went into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn

from convatlas.engine.probes import rounds_once
from convatlas.kernels.common.precision import conv_tf32, matmul_tf32
from convatlas.nets.paths import module_paths
from convatlas.ops.backend_numpy import as_array
from convatlas.ops.observe import Call, observe
from convatlas.reference import error_bound
from convatlas.reference.error_bound import Report
from convatlas.reference.truth import truth


@dataclass(frozen=True)
class LayerCheck:
    """One op that ran, and what the reference says of its output.

    Attributes:
        path: of the module that ran it; "" outside any.
        call: op, spec, epilogue, backend, dtype.
        report: error / bound, and where it is worst.
        seconds: spent on the reference and the comparison, not on the op.
    """

    path: str
    call: Call
    report: Report
    seconds: float

    def __str__(self) -> str:
        return f"{self.path or self.call.op} ({self.call.spec}): {self.report.detail or 'within its bound'}"


@dataclass
class Checker:
    """An observer for convatlas.ops.observe that appends a LayerCheck for every op.

    Attributes:
        path: called after an op, tells its module path.
        seen: called with every new LayerCheck, for a progress display.
        probing: the operands are probes (engine/probes.py): what rounds once must be exact on them.
        checks: what was found, in the order in which the ops ran.
    """

    path: Callable[[], str] = lambda: ""
    seen: Callable[[LayerCheck], None] | None = None
    probing: bool = False
    checks: list[LayerCheck] = field(default_factory=list)

    def __call__(self, call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
        start = perf_counter()
        arrays = {name: as_array(x) for name, x in tensors.items()}
        expected = truth(call.op, call.spec, call.epilogue, arrays, call.params)
        exact = self.probing and rounds_once(call.op, call.backend)
        how = precision(call, output.device)
        report = error_bound.check(as_array(output), expected, dtype=call.dtype, exact=exact, **how)
        self.checks.append(LayerCheck(self.path(), call, report, perf_counter() - start))
        if self.seen is not None:
            self.seen(self.checks[-1])


def precision(call: Call, device: torch.device) -> dict:
    """How the backend that ran `call` rounds, as keyword arguments of error_bound.check."""
    if call.backend == "numpy":
        return {"accumulate": "float64"}
    allowed = {"conv2d": conv_tf32, "linear": matmul_tf32}.get(call.op)
    tf32 = device.type == "cuda" and allowed is not None and allowed(call)
    stores = 1
    if call.backend == "cudnn" and call.epilogue is not None:  # PyTorch adds bias and residual to a stored result
        stores += call.epilogue.bias + call.epilogue.residual
    return {"tf32": tf32, "stores": stores}


@contextmanager
def checking(net: nn.Module, seen: Callable[[LayerCheck], None] | None = None) -> Iterator[list[LayerCheck]]:
    """Checks every op that runs inside the `with` block; yields the list that the LayerChecks are appended to."""
    with module_paths(net) as path:
        checker = Checker(path, seen)
        with observe(checker):
            yield checker.checks

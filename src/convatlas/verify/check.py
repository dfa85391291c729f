"""Holds every op that runs to the reference, on the very tensors that went into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn

from convatlas.call import Call
from convatlas.errors import CheckError
from convatlas.kernels.common.precision import tf32
from convatlas.nets.paths import module_paths
from convatlas.ops.backend_numpy import as_array
from convatlas.ops.observe import observe
from convatlas.reference import error_bound
from convatlas.reference.error_bound import Report
from convatlas.reference.truth import truth
from convatlas.specs import dtype_name
from convatlas.study.layer import Layer
from convatlas.verify.probes import rounds_once
from convatlas.verify.single import Tensors, run


@dataclass(frozen=True)
class LayerCheck:
    """One op that ran, and how its output compares with the reference.

    Attributes:
        path: the path of the module that ran it; "" outside of any module.
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


class Checks(list[LayerCheck]):
    """The LayerChecks of what ran, in that order. As text: a line for each, the worst share of a bound, and the verdict."""

    @property
    def ok(self) -> bool:
        """Whether every output is within its bound. True also when nothing ran; the text then says so."""
        return all(check.report.ok for check in self)

    @property
    def wrong(self) -> list[LayerCheck]:
        """The checks of outputs outside their bound."""
        return [check for check in self if not check.report.ok]

    @property
    def worst(self) -> float:
        """The largest share of a bound that an error takes: at most 1 when all is well, 0.0 when nothing ran."""
        return max((check.report.worst for check in self), default=0.0)

    def __str__(self) -> str:
        if not self:
            return "no op of convatlas ran"
        lines = [f"{check.report.worst:10.3g}  {check}" for check in self]
        verdict = f"{len(self.wrong)} outside their bounds" if self.wrong else "all within their bounds"
        return "\n".join([*lines, f"{self.worst:10.3g}  the worst of {len(self)}: {verdict}"])


@dataclass
class Checker:
    """An observer for convatlas.ops.observe that appends a LayerCheck for every op.

    Attributes:
        path: a function that, called after an op, returns the path of its module.
        seen: called with every new LayerCheck, for a progress display.
        probing: the operands are probes (verify/probes.py), on which an op that rounds once must be exact.
        raises: raise CheckError at an output outside its bound.
        checks: what was found, in the order in which the ops ran.
    """

    path: Callable[[], str] = lambda: ""
    seen: Callable[[LayerCheck], None] | None = None
    probing: bool = False
    raises: bool = False
    checks: Checks = field(default_factory=Checks)

    def __call__(self, call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
        if call.backend == "meta":  # shapes alone, of torch.compile or the meta device: there is nothing to check
            return
        start = perf_counter()
        arrays = {name: as_array(x) for name, x in tensors.items()}
        expected = truth(call.op, call.spec, call.epilogue, arrays, call.params)
        exact = self.probing and rounds_once(call)
        how = precision(call, output.device)
        report = error_bound.check(as_array(output), expected, dtype=dtype_name(output.dtype), exact=exact, **how)
        self.checks.append(LayerCheck(self.path(), call, report, perf_counter() - start))
        if self.seen is not None:
            self.seen(self.checks[-1])
        if self.raises and not report.ok:
            raise CheckError(str(self.checks[-1]))


def precision(call: Call, device: torch.device) -> dict:
    """How the backend that ran `call` rounds, as keyword arguments of error_bound.check."""
    if call.backend == "numpy":
        return {"accumulate": "float64"}
    stores = 1
    if call.backend == "cudnn" and call.epilogue is not None:  # PyTorch adds bias and residual to a stored result
        stores += call.epilogue.bias + call.epilogue.residual
    return {"tf32": device.type == "cuda" and tf32(call), "stores": stores}


@contextmanager
def checking(
    net: nn.Module | None = None, *, raises: bool = True, seen: Callable[[LayerCheck], None] | None = None
) -> Iterator[Checks]:
    """Holds the output of every op of convatlas that runs inside the `with` block to the reference's error bound.

        with convatlas.checking() as report:
            y = net(x)
        print(report.worst, report)

    Args:
        net: the net whose module names are the paths; None takes the outermost module that is running.
        raises: raise CheckError as soon as an output is outside its bound, where it is computed; False only collects.
        seen: called with every LayerCheck as it is made.

    Yields the Checks, which grow while the block runs. The reference computes in NumPy, in float64: expect seconds where the op
    takes milliseconds. Only this thread's ops are seen, and none that run inside a captured CUDA graph.
    """
    with module_paths(net) as path:
        checker = Checker(path, seen, raises=raises)
        with observe(checker):
            yield checker.checks


def check_alone(layer: Layer, tensors: Tensors, backend: str, probing: bool = False) -> LayerCheck:
    """Checks one layer by itself, on operands from verify.single or, with `probing`, from verify.probes."""
    checker = Checker(probing=probing)
    with observe(checker):
        run(layer, tensors, backend)
    return checker.checks[0]

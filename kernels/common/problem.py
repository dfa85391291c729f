"""Problem: all that the launches of one op depend on, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from convatlas.call import Call
from convatlas.kernels.common.precision import tf32
from convatlas.kernels.common.target import Target
from convatlas.specs import Epilogue, Spec


@dataclass(frozen=True)
class Problem:
    """One op, its operands and its output, for one target. A launcher turns it into launches.

    Attributes:
        op: the op's public name.
        spec: shapes and shape arithmetic.
        operands: the inputs by name, and a second output ("indices", "winners", "masked", "bias_grad").
        out: where the result goes.
        target: the GPU, or the interpreter.
        dtype: the input's dtype by name.
        epilogue: what is fused behind the op.
        params: parameters that are no part of a shape (eps, alpha, beta, k, dim).
        tf32: float32 products may round their operands to TF32.
    """

    op: str
    spec: Spec
    operands: dict[str, Tensor]
    out: Tensor
    target: Target
    dtype: str
    epilogue: Epilogue = field(default_factory=Epilogue)
    params: dict[str, Any] = field(default_factory=dict)
    tf32: bool = False

    @classmethod
    def of(cls, call: Call, operands: dict[str, Tensor], out: Tensor, target: Target) -> Problem:
        """The problem of a call on its tensors. This is the one place that asks torch's settings about TF32."""
        epilogue = call.epilogue or Epilogue()
        return cls(call.op, call.spec, operands, out, target, call.dtype, epilogue, call.params, tf32(call))

    def __getitem__(self, name: str) -> Tensor:
        return self.operands[name]

    def get(self, name: str) -> Tensor | None:
        """An operand that may be absent."""
        return self.operands.get(name)

    @property
    def activation(self) -> str | None:
        """The epilogue's activation."""
        return self.epilogue.activation

    @property
    def simt(self) -> bool:
        """Whether products are IEEE float32, which no tensor core computes."""
        return self.dtype == "float32" and not self.tf32

    def seen_as(self, spec: Spec, out: Tensor, **operands: Tensor | None) -> Problem:
        """The same problem in other shapes: views of the operands under another spec. An operand of None is left out."""
        given = {name: x for name, x in {**self.operands, **operands}.items() if x is not None}
        return replace(self, spec=spec, out=out, operands=given)

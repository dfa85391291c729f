"""Call: one op with its shapes and parameters as a value, which reference, kernels and instruments share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from convatlas.specs import Epilogue, Spec


@dataclass(frozen=True)
class Call:
    """One op about to run, or one that ran.

    Attributes:
        op: its public name, such as "conv2d".
        spec: shapes and shape arithmetic.
        epilogue: what is fused behind it, or None for an op that has no epilogue.
        params: parameters that are no part of a shape (eps, alpha, beta, k, dim).
        backend: "triton", "cuda", "cudnn", "numpy", or "meta" when only shapes were computed.
        dtype: the input's dtype by name.
    """

    op: str
    spec: Spec
    epilogue: Epilogue | None = None
    params: dict[str, Any] = field(default_factory=dict)
    backend: str = "meta"
    dtype: str = "float32"

    @property
    def extra(self) -> dict[str, tuple[tuple[int, ...], str | None]]:
        """The outputs that the op returns behind its first: by name the shape, and the dtype where it is not the input's."""
        if self.params.get("return_indices"):
            return {"indices": (self.spec.output_shape, "int64")}
        if self.params.get("return_winners"):
            return {"winners": (self.spec.output_shape, "uint8")}
        if self.params.get("return_lse"):
            return {"lse": (self.spec.output_shape, None if self.dtype == "float64" else "float32")}
        if self.params.get("return_masked"):
            return {"masked": (self.spec.inputs["grad_output"], None)}
        if self.params.get("bias_grad"):
            return {"bias_grad": ((self.spec.bias_elements,), None)}
        return {}

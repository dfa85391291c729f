"""Correctness before time: a layer's output against float32 on the same device, norm-wise, by the law of docs/numerics.md.

The truth in float64 on the CPU is too slow for a batch of 128, so here torch computes the layer in float32 on the device, cuDNN off
(its Winograd and FFT algorithms round in ways that the law does not describe) and TF32 off. What the law needs beside it, the
spread S of the partial sums, is the same convolution on squared operands. The bound is that on the root mean square,

    sigma = u_acc ((sqrt(L) + DRIFT L) S + roundings A) + 2 TF32_CUT S + u_out (|ref| + inner) + eta
    sum |y - ref|^2  <=  T1 + 2 sqrt(T2 t) + 2 Tmax t,      t = C^2 / 2

with the float32 computation's own roundings, u_32 (sqrt(L) S + roundings A), added to sigma.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import log, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.kernels.common.precision import float32_products
from convatlas.ops import backend_cudnn
from convatlas.reference.activation import ACTIVATIONS
from convatlas.reference.error_bound import DRIFT, TF32_CUT, C
from convatlas.reference.evaluate import activation_after
from convatlas.reference.rounding import format_of
from convatlas.specs import Epilogue, dtype_name
from convatlas.specs.activations import FLOPS, exact, parsed
from convatlas.study.tracing import Layer

Tensors = Mapping[str, Tensor]
RELATIVE = ("residual_add", "channel_scale", "batch_norm")  # the bound is made of the value before the activation
EXACT = ("max_pool2d", "adaptive_max_pool2d", "relu", "relu6", "concat")  # the result is one of the inputs, or 0, or 6


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, float32 means it: no TF32, and PyTorch's own kernels for cuDNN's."""
    enabled, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
    try:
        with torch.no_grad(), float32_products("ieee"):
            yield
    finally:
        torch.backends.cudnn.enabled = enabled


@dataclass(frozen=True)
class Accuracy:
    """How far an output is off, as a fraction of the expected output's norm, and how far it may be."""

    error: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.error <= self.bound  # False for a NaN

    def __str__(self) -> str:
        return f"relative error {self.error:.3g}, expected at most {self.bound:.3g}"


def chained(lengths: Iterable[int], dtype: str, tf32: bool) -> float:
    """What the roundings of layers one after another may come to, as a fraction of the output's norm.

    A layer of reduction length L rounds its weights and its output with u, cuts tf32 operands, and sums with u_32 (2 for a tensor
    core that cuts off) times sqrt(L) + DRIFT L (docs/numerics.md). He's weights keep the norm, so what came in with a fraction e of
    it leaves the next layer with about e: the layers' fractions add up, at their worst.
    """
    u, single = format_of(dtype).unit_roundoff, format_of("float32").unit_roundoff
    cut = 2 * TF32_CUT if tf32 else 0.0
    return sum(2 * u + cut + 2 * single * (sqrt(L) + DRIFT * L) for L in lengths)


def _computed(layer: Layer, tensors: Tensors, epilogue: Epilogue | None) -> Tensor:
    call = replace(layer.call, epilogue=epilogue, backend="cudnn", dtype="float32")
    with exact_float32():
        return backend_cudnn.run(call, dict(tensors), None)


def _of_products(layer: Layer, t: Tensors) -> tuple[Tensor, Tensor, int, int]:
    """Convolution, its gradients and linear: S^2 = (sum of products)^2 + sum of (x w)^2 + bias^2 + residual^2."""
    bare = Epilogue()
    factors = layer.spec.inputs
    squares = _computed(layer, {name: t[name].square() for name in factors}, bare)
    squares += _computed(layer, {name: t[name] for name in factors}, bare).square_()
    added = [t[name] for name in ("bias", "residual") if name in t]
    for term in added:
        squares += (term[:, None, None] if term.dim() == 1 and squares.dim() == 4 else term).square()
    return squares.sqrt_(), torch.zeros((), device=squares.device), layer.spec.reduction + len(added), 0


def _companions(layer: Layer, t: Tensors, value: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """(S, A, L, roundings) of docs/numerics.md, "What each op adds"; value is the output before any activation."""
    if layer.spec.products:
        return _of_products(layer, t)
    if layer.op in ("avg_pool2d", "adaptive_avg_pool2d"):
        A = _computed(layer, {"input": t["input"].abs()}, None).abs_()
        # S^2 = ref^2 + sum of squares / divisor^2, each of them at most A^2.
        return sqrt(2) * A, A, layer.spec.reduction, 2
    if layer.op == "residual_add":
        return value.abs(), value.abs(), 0, 1
    if layer.op == "channel_scale":
        scale, gate = t["scale"], layer.spec.gate
        factor = scale if gate is None else backend_cudnn.activated(scale.clone(), gate)
        A = t["x"].abs() * factor.abs()
        A = A + value.abs() if "residual" in t else A
        if not exact(gate):
            A = A + t["x"].abs() * 2 * ACTIVATIONS[parsed(gate)[0]].roundings(scale, factor)  # ours and the peer's
        return A, A, 0, 1
    if layer.op == "batch_norm":
        scale = t["weight"].abs() / torch.sqrt(t["running_var"] + layer.params.get("eps", 1e-5))
        shift = t["running_mean"].abs() * scale + t["bias"].abs()
        per_channel = (1, -1, *(1,) * (value.dim() - 2))
        A = t["input"].abs() * scale.view(per_channel) + shift.view(per_channel)
        return A, A, 0, 9
    if layer.op == "local_response_norm":
        size, (alpha, beta, k) = layer.spec.size, (layer.params[name] for name in ("alpha", "beta", "k"))
        channels = t["input"].shape[1]
        padded = F.pad(t["input"].square(), (0, 0, 0, 0, size // 2, (size - 1) // 2))
        base = k + alpha / size * sum(padded[:, i : i + channels] for i in range(size))
        A = value.abs() * (1 + beta * (1 + base.log().abs()))
        return A, A, size, 10
    if layer.op == "softmax":
        dim = layer.params["dim"]
        depth = t["input"].amax(dim, keepdim=True) - t["input"]
        A = value * (1 + depth + log(t["input"].shape[dim]))
        return A, A, t["input"].shape[dim], 12
    if layer.op in FLOPS:
        return torch.zeros_like(value), torch.zeros_like(value), 0, 0
    raise KeyError(f"no law for {layer.op}")


class Judge:
    """Holds outputs of one layer on one data set to what float32 makes of it.

    Args:
        layer, tensors: what is computed, on which operands; any dtype, any device.
        tf32: float32 operands may be cut to TF32.
    """

    def __init__(self, layer: Layer, tensors: Tensors, tf32: bool = False) -> None:
        first = next(iter(tensors.values()))
        wide = {name: x.float() for name, x in tensors.items()}
        self.expected = _computed(layer, wide, layer.epilogue)
        self._norm = float(torch.linalg.vector_norm(self.expected))
        self._allowed = 0.0
        dtype = dtype_name(first.dtype)
        if layer.op == "block":
            self._allowed = self._norm * chained((part.spec.reduction for part in layer.spec.parts), dtype, tf32)
        elif layer.op not in EXACT:
            value = self.expected
            activation = activation_after(layer.op, layer.epilogue, layer.params)
            if layer.epilogue and activation and (layer.op in RELATIVE or not exact(activation)):
                value = _computed(layer, wide, replace(layer.epilogue, activation=None))
            elif layer.op in FLOPS:
                value = wide["input"]
            lipschitz, own = self._activation(activation, value)
            S, A, L, roundings = _companions(layer, wide, value)
            parts = lipschitz * S, lipschitz * A, L, roundings
            sigma = self._sigma(*parts, dtype, tf32, layer.spec.products) + own
            t, squares = C * C / 2, sigma.square()
            T1, Tmax = float(squares.sum(dtype=torch.float64)), float(squares.max())
            T2 = float(squares.square_().sum(dtype=torch.float64))
            self._allowed = sqrt(T1 + 2 * sqrt(T2 * t) + 2 * Tmax * t)

    def _activation(self, activation: str | None, before: Tensor) -> tuple[float, Tensor | float]:
        """(by how much it widens an error, what it rounds itself): docs/numerics.md, "Activations"; ours and the peer's."""
        if exact(activation):
            return 1.0, 0.0
        name, slope = parsed(activation)
        row = ACTIVATIONS[name]
        return row.lipschitz(slope), 2 * format_of("float32").unit_roundoff * row.roundings(before, self.expected)

    def _sigma(self, S: Tensor, A: Tensor, L: int, roundings: int, dtype: str, tf32: bool, products: bool) -> Tensor:
        out, single = format_of(dtype), format_of("float32")
        tensor_core = products and (tf32 or dtype != "float32")
        u_acc = single.unit_roundoff * (2 if tensor_core else 1)
        drift, cut = DRIFT * L if tensor_core else 0.0, TF32_CUT if tf32 else 0.0
        eta = out.smallest_subnormal / 2 + L * single.smallest_subnormal / 2
        inner = S * (u_acc * (sqrt(L) + drift) + 2 * cut) + u_acc * roundings * A
        sigma = inner * (1 + out.unit_roundoff) + out.unit_roundoff * self.expected.abs() + eta
        return sigma + single.unit_roundoff * (sqrt(L) * S + roundings * A)

    def __call__(self, y: Tensor) -> Accuracy:
        """The accuracy of one output, which has the layer's shape and any dtype."""
        if y.shape != self.expected.shape:
            return Accuracy(float("nan"), self._allowed)
        norm = self._norm or 1.0
        return Accuracy(float(torch.linalg.vector_norm(y.float() - self.expected)) / norm, self._allowed / norm)

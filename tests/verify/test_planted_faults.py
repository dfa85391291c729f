"""On the operands that verify draws, every op with a fault in it is found: skipped, cut off, summed in halves, a term short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.ops import backends
from convatlas.ops.backend_numpy import as_array
from convatlas.reference import round_to
from convatlas.reference.activation import activate
from convatlas.reference.evaluate import evaluate
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    ConcatSpec,
    Conv2dSpec,
    ElementwiseSpec,
    Epilogue,
    LinearSpec,
    LocalResponseNormSpec,
    NormSpec,
    Pool2dSpec,
    ResidualAddSpec,
)
from convatlas.study import Layer
from convatlas.verify.check import check_alone
from convatlas.verify.probes import largest_integer, probes

pytestmark = pytest.mark.interpreter  # the plant stands in for "triton" on CPU tensors
Arrays = dict[str, np.ndarray]
HALVES = ("float16", "bfloat16")
X = (2, 24, 9, 9)


def layer(op: str, spec, epilogue: Epilogue | None = None, **params) -> Layer:
    return Layer("", Call(op, spec, epilogue, params))


FUSED = Epilogue(True, "relu", True)
LAYERS = {
    "conv2d": layer("conv2d", Conv2dSpec.of(X, (16, 24, 3, 3), 2, 1), FUSED),
    "conv2d-relu6": layer("conv2d", Conv2dSpec.of(X, (16, 24, 3, 3), 1, 1), Epilogue(True, "relu6", True)),
    "conv2d-stem": layer("conv2d", Conv2dSpec.of((1, 3, 20, 20), (16, 3, 7, 7), 2, 3), Epilogue(True, "relu")),
    "conv2d-pointwise": layer("conv2d", Conv2dSpec.of(X, (32, 24, 1, 1)), FUSED),
    "conv2d-depthwise": layer("conv2d", Conv2dSpec.of(X, (24, 1, 3, 3), 1, 1, 1, 24), FUSED),
    "conv2d-grouped": layer("conv2d", Conv2dSpec.of(X, (12, 6, 3, 3), 1, 1, 1, 4), FUSED),
    "conv2d-4608": layer("conv2d", Conv2dSpec.of((1, 512, 4, 4), (16, 512, 3, 3), 1, 1), FUSED),
    "linear": layer("linear", LinearSpec.of((4, 512), (100, 512)), Epilogue(True)),
    "linear-25088": layer("linear", LinearSpec.of((2, 25088), (64, 25088)), Epilogue(True)),
    "max_pool2d": layer("max_pool2d", Pool2dSpec.of("max", X, 3, 2, 1)),
    "avg_pool2d": layer("avg_pool2d", Pool2dSpec.of("avg", X, 3, 1, 1)),
    "adaptive_avg_pool2d": layer("adaptive_avg_pool2d", AdaptivePool2dSpec.of((2, 200, 7, 7), 1)),
    "adaptive_avg_pool2d-112": layer("adaptive_avg_pool2d", AdaptivePool2dSpec.of((2, 64, 112, 112), 1)),
    "adaptive_max_pool2d": layer("adaptive_max_pool2d", AdaptivePool2dSpec.of((2, 200, 7, 7), 1, "max")),
    "channel_scale": layer(
        "channel_scale", ChannelScaleSpec.of(X, (*X[:2], 1, 1), "sigmoid"), Epilogue(False, "relu", True)
    ),
    "residual_add": layer("residual_add", ResidualAddSpec.of(X, X), Epilogue(activation="relu")),
    "residual_add-relu6": layer("residual_add", ResidualAddSpec.of(X, X), Epilogue(activation="relu6")),
    "batch_norm": layer("batch_norm", NormSpec.of(X), Epilogue(activation="relu"), eps=1e-5),
    "batch_norm-relu6": layer("batch_norm", NormSpec.of(X), Epilogue(activation="relu6"), eps=1e-5),
    "local_response_norm": layer(
        "local_response_norm", LocalResponseNormSpec.of(X, 5), alpha=1e-4, beta=0.75, k=1.0
    ),
    "local_response_norm-2012": layer(
        "local_response_norm", LocalResponseNormSpec.of(X, 5), alpha=5e-4, beta=0.75, k=2.0
    ),
    "softmax": layer("softmax", ElementwiseSpec("softmax", (4, 1000), 1000), dim=1),
    "conv2d-silu": layer("conv2d", Conv2dSpec.of(X, (16, 24, 3, 3), 2, 1), Epilogue(True, "silu", True)),
    "conv2d-hardswish": layer("conv2d", Conv2dSpec.of(X, (24, 1, 3, 3), 1, 1, 1, 24), Epilogue(True, "hardswish")),
    "linear-leaky_relu": layer("linear", LinearSpec.of((4, 512), (100, 512)), Epilogue(True, "leaky_relu(0.2)")),
    "residual_add-silu": layer("residual_add", ResidualAddSpec.of(X, X), Epilogue(activation="silu")),
    "batch_norm-leaky_relu": layer("batch_norm", NormSpec.of(X), Epilogue(activation="leaky_relu"), eps=1e-5),
    **{name: layer(name, ElementwiseSpec(name, X)) for name in ("silu", "hardswish", "sigmoid", "hardsigmoid")},
    "leaky_relu": layer("leaky_relu", ElementwiseSpec("leaky_relu", X), negative_slope=0.2),
    "relu": layer("relu", ElementwiseSpec("relu", X)),
    "relu6": layer("relu6", ElementwiseSpec("relu6", X)),
    "concat": layer("concat", ConcatSpec.of([X, X], 1)),
}  # fmt: skip


# ---- faults: each takes (call, arrays, dtype) and returns what the faulty kernel stores, or None where the op has no such part


def right(call: Call, a: Arrays, dtype: str, epilogue: Epilogue | None = None) -> np.ndarray:
    """In float64, not rounded."""
    return evaluate(
        call.op, call.spec, epilogue or call.epilogue, {n: x.astype(np.float64) for n, x in a.items()}, call.params
    )


def skipped(call: Call, a: Arrays, dtype: str) -> np.ndarray:
    """The input where it has the output's shape, a pixel or a term of it where not; of a sum of products all but the products."""
    if call.op in ("conv2d", "linear"):
        return right(call, {**a, "input": 0 * a["input"]}, dtype)
    first = next(iter(a.values())).astype(np.float64)
    if call.op == "concat":
        return np.concatenate([first, first], axis=1)
    shape = call.spec.output_shape
    if first.shape == shape:
        return first
    P, Q = shape[2:]
    return first[:, :, :: first.shape[2] // P or 1, :: first.shape[3] // Q or 1][:, :, :P, :Q]


def cut_off(call: Call, a: Arrays, dtype: str) -> np.ndarray | None:
    """Stores that round towards zero."""
    if dtype not in HALVES:
        return None  # float32 sums are stored as they are
    y = right(call, a, dtype)
    digits = {"float16": 11, "bfloat16": 8}[dtype]
    unit = np.maximum(2.0 ** (np.frexp(y)[1] - digits), 2.0**-24 if dtype == "float16" else 0)
    return np.trunc(y / unit) * unit


def half_partials(call: Call, a: Arrays, dtype: str) -> np.ndarray | None:
    """A sum in parts that are stored in half precision and then added in float32."""
    half = dtype if dtype in HALVES else "float16"
    plain = replace(call.epilogue, activation=None) if call.epilogue else None
    activation = call.epilogue.activation if call.epilogue else None
    x = a.get("input")
    if call.op in ("conv2d", "linear"):
        rest = right(call, {**a, "input": 0 * x}, dtype, plain)
        parts = np.arange(x.shape[-1]) % 2  # of a window's columns, of a row's terms
        y = rest + sum(
            round_to(right(call, {**a, "input": x * (parts == i)}, dtype, plain) - rest, half) for i in (0, 1)
        )
        return activate(y, activation)
    if call.op in ("avg_pool2d", "adaptive_avg_pool2d"):
        parts = np.arange(x.shape[-1]) % 2
        return sum(round_to(right(call, {"input": x * (parts == i)}, dtype), half) for i in (0, 1))
    if call.op == "softmax":
        e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
        return e / sum(round_to(e[:, i::2].sum(axis=1, keepdims=True), half) for i in (0, 1))
    if call.op == "local_response_norm":
        beta, y = call.params["beta"], right(call, a, dtype)
        base = (np.where(x == 0, 1, y) / np.where(x == 0, 1, x)) ** (-1 / beta)
        return x * round_to(base, half) ** -beta
    if call.op == "batch_norm":
        scale = round_to(a["weight"] / np.sqrt(a["running_var"].astype(np.float64) + call.params["eps"]), half)
        columns = {n: v[:, None, None] for n, v in (("s", scale), ("m", a["running_mean"]), ("b", a["bias"]))}
        y = (x - columns["m"]) * columns["s"] + columns["b"]
        return activate(y, activation)
    return None


def without(name: str) -> Callable:
    def dropped(call: Call, a: Arrays, dtype: str) -> np.ndarray | None:
        return right(call, {**a, name: 0 * a[name]}, dtype) if name in a else None

    return dropped


def activation_dropped(call: Call, a: Arrays, dtype: str) -> np.ndarray | None:
    if call.epilogue is None or call.epilogue.activation is None:
        return None
    return right(call, a, dtype, replace(call.epilogue, activation=None))


def never_capped(call: Call, a: Arrays, dtype: str) -> np.ndarray | None:
    """relu for relu6."""
    if call.op == "relu6":
        return np.maximum(a["input"], 0)
    if call.epilogue is None or call.epilogue.activation != "relu6":
        return None
    return right(call, a, dtype, replace(call.epilogue, activation="relu"))


def a_tap_short(call: Call, a: Arrays, dtype: str) -> np.ndarray | None:
    """The last term of every sum, or the last place of every window, is left out."""
    if "weight" in a and call.op in ("conv2d", "linear"):
        w = a["weight"].copy()
        w[(slice(None), -1, *[-1] * (w.ndim - 2))] = 0  # one channel of one tap
        return right(call, {**a, "weight": w}, dtype)
    x = next(iter(a.values()))
    if call.op in ("max_pool2d", "avg_pool2d"):
        s, (P, Q) = call.spec, call.spec.output_shape[2:]
        worst = -np.inf if call.op == "max_pool2d" else 0.0
        wide = np.pad(x, ((0, 0), (0, 0), *((p, p + s.R) for p in s.padding)), constant_values=worst)
        taps = [
            wide[:, :, r : r + P * s.stride[0] : s.stride[0], c : c + Q * s.stride[1] : s.stride[1]][:, :, :P, :Q]
            for r in range(s.R)
            for c in range(s.S)
        ][:-1]
        return np.max(taps, axis=0) if call.op == "max_pool2d" else np.sum(taps, axis=0, dtype=np.float64) / (s.R * s.S)
    if call.op in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        x = x.copy()
        x[:, :, -1, -1] = 0 if "avg" in call.op else -np.inf
        return right(call, {"input": x}, dtype)
    if call.op == "softmax":
        e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
        return e / e[:, :-1].sum(axis=1, keepdims=True)
    if call.op == "local_response_norm":
        return right(replace(call, spec=LocalResponseNormSpec.of(x.shape, 4)), a, dtype)
    return None


FAULTS = {
    "skipped": skipped,
    "cut-off": cut_off,
    "half-partials": half_partials,
    "no-bias": without("bias"),
    "no-residual": without("residual"),
    "no-shortcut": without("shortcut"),
    "no-activation": activation_dropped,
    "relu-for-relu6": never_capped,
    "a-tap-short": a_tap_short,
}


def judged(name: str, dtype: str, fault: Callable, monkeypatch: pytest.MonkeyPatch):
    """verify's report on the layer alone, run on a backend with the fault; None where the op has no such part."""
    applies = True

    def run(call: Call, tensors: dict[str, Tensor], out: Tensor) -> Tensor:
        nonlocal applies
        y = fault(call, {n: as_array(x) for n, x in tensors.items()}, dtype)
        applies = y is not None
        return out.copy_(torch.from_numpy(round_to(np.ascontiguousarray(y), dtype))) if applies else out

    monkeypatch.setattr(backends, "runner", lambda backend: run)
    kind = getattr(torch, dtype)
    report = check_alone(
        LAYERS[name], probes(LAYERS[name], kind, torch.device("cpu"), 0), "triton", probing=True
    ).report
    return report if applies else None


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("name", LAYERS)
def test_a_fault_is_found_and_nothing_else(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = judged(name, dtype, right, monkeypatch)
    assert report.ok, report.detail
    reports = {fault: judged(name, dtype, plant, monkeypatch) for fault, plant in FAULTS.items()}
    missed = [fault for fault, report in reports.items() if report is not None and report.ok]
    exact = (
        "max_pool2d",
        "adaptive_max_pool2d",
        "relu",
        "relu6",
        "concat",
    )  # what they store is an input: nothing is rounded
    assert [f for f in missed if not (f == "cut-off" and LAYERS[name].op in exact)] == []


@pytest.mark.parametrize("L", [1, 9, 27, 147, 576, 4608, 25088, 10**6, 2**23])
def test_sums_of_probes_are_exact_in_float32(L: int) -> None:
    B = largest_integer(L)
    assert 1 <= B <= 255 and L * B * B + 2 * 255 * 16 < 2**24

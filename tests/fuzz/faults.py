"""Bugs that were there once, as data: what puts each back, and which cases of the fuzz must report it in which words.

A fault is planted in a child process, at the seams that rearranging kernels leaves alone: a backend's run function or a check
of the ops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.kernels.common import launch
from convatlas.ops import backends, elementwise, library, transforms
from convatlas.specs import arguments
from convatlas.specs.activations import activation_of
from fuzz import like_torch
from fuzz.cases import Case, T
from fuzz.verdict import THREADS

Run = Callable[[Any, dict[str, Tensor], "Tensor | None"], Any]


@dataclass(frozen=True)
class Fault:
    """A bug to be put back.

    Attributes:
        name: what is wrong.
        plant: puts it into this process.
        ops, backend: the families of cases one of which must find it.
        words: how what they report begins.
        seconds: CPU seconds that a case may take under it.
        cases: tried before the drawn ones.
    """

    name: str
    plant: Callable[[], None]
    ops: str
    backend: str
    words: str
    seconds: int = 20
    cases: tuple[Case, ...] = ()

    def __str__(self) -> str:
        return f"{self.ops} on {self.backend}: {self.name}"


def around(backend: str, change: Callable[[Run, Any, dict[str, Tensor], Tensor | None], Any]) -> Callable[[], None]:
    """`change(run, call, tensors, out)` in place of the backend's run(call, tensors, out)."""

    def plant() -> None:
        plain = backends.runner

        def runner(name: str) -> Run:
            run = plain(name)
            return run if name != backend else lambda call, tensors, out: change(run, call, tensors, out)

        backends.runner = runner

    return plant


def seen_by(backend: str, change: Callable[[Any, dict[str, Tensor]], tuple]) -> Callable[[], None]:
    """`change(call, tensors)` gives what the backend's run function sees instead of them."""
    return around(backend, lambda run, call, tensors, out: run(*change(call, tensors), out))


def setting(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """The owner's attribute gets the value."""

    def plant() -> None:
        getattr(owner, name)  # a seam that is gone must be seen
        setattr(owner, name, value)

    return plant


def _bias_adjacent(call: Any, tensors: dict[str, Tensor]) -> tuple:
    """The bias as its storage has it from its first element on, and NaN beyond: its stride is not looked at."""
    if "bias" not in tensors:
        return call, tensors
    b = tensors["bias"]
    length = b.untyped_storage().nbytes() // b.element_size()
    stored = b.as_strided((length - b.storage_offset(),), (1,))
    beyond = torch.full((b.numel(),), torch.nan, dtype=b.dtype)
    return call, {**tensors, "bias": torch.cat([stored, beyond])[: b.numel()]}


def _out_is_an_input(check: Callable) -> Callable:
    """No check of an `out` that begins where an input does: what in-place calls were spared."""

    def changed(op: Any, tensors: dict[str, Tensor], out: Tensor) -> None:
        if not any(x.data_ptr() == out.data_ptr() and x.stride() == out.stride() for x in tensors.values()):
            check(op, tensors, out)

    return changed


def _spans_meet(a: Tensor, b: Tensor) -> bool:
    """Overlap by first and last address only: interleaved slices of one buffer seem to meet."""
    spans = [(x.data_ptr(), x.data_ptr() + x.element_size() * _reach(x)) for x in (a, b)]
    return bool(a.numel() and b.numel()) and spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1]


def _reach(x: Tensor) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride()))


def _past_31_bits(run: Run, call: Any, tensors: dict[str, Tensor], out: Tensor | None) -> Any:
    """Outputs p of adaptive pooling at which p * H, or p * W, passes 2^31 get another window's mean."""
    y = run(call, tensors, out)
    s = call.spec
    for size, count, dim in ((s.H, s.P, 2), (s.W, s.Q, 3)):
        first = 2**31 // size
        if call.op == "adaptive_avg_pool2d" and first < count:
            y.narrow(dim, first, count - first).copy_(y.narrow(dim, 0, count - first))
    return y


def _divisor_in_32_bits(call: Any, tensors: dict[str, Tensor]) -> tuple:
    if call.op != "avg_pool2d":
        return call, tensors
    divisor = call.spec.divisor_override or 0
    short = (divisor + 2**31) % 2**32 - 2**31
    return replace(call, spec=replace(call.spec, divisor_override=short or None)), tensors


def _endless(run: Run, call: Any, tensors: dict[str, Tensor], out: Tensor | None) -> Any:
    while call.op == "local_response_norm" and call.spec.size >= 2**31 - 1:
        pass
    return run(call, tensors, out)


def _all_memory(run: Run, call: Any, tensors: dict[str, Tensor], out: Tensor | None) -> Any:
    if call.op == "local_response_norm" and call.spec.size >= 2**32:
        bytearray(tensors["input"].numel() + call.spec.size)
    return run(call, tensors, out)


def _no_pixel(run: Run, call: Any, tensors: dict[str, Tensor], out: Tensor | None) -> Any:
    """The index of a window in which no pixel lies is -1."""
    y = run(call, tensors, out)
    if isinstance(y, tuple):
        s = call.spec
        seen = F.max_pool2d(
            torch.zeros(1, 1, s.H, s.W), (s.R, s.S), s.stride, s.padding, s.dilation, s.ceil_mode
        )  # -inf where nothing lies
        y[1].masked_fill_(seen == -torch.inf, -1)
    return y


def _lrn_by_exp2(run: Run, call: Any, tensors: dict[str, Tensor], out: Tensor | None) -> Any:
    """x * 2^(-beta log2 base), whatever base is: 0 * infinity for beta 0 and an infinite base."""
    y = run(call, tensors, out)
    if call.op == "local_response_norm" and call.params["beta"] == 0:
        x = tensors["input"].float()
        base = F.local_response_norm(x.abs(), call.spec.size, call.params["alpha"], -1.0, call.params["k"]) / x.abs()
        y.copy_((x * torch.exp2(-0.0 * torch.log2(base))).to(y.dtype))
    return y


def _flushed(call: Any, tensors: dict[str, Tensor]) -> tuple:
    def flush(x: Tensor) -> Tensor:
        return x.masked_fill(x.abs() < torch.finfo(x.dtype).tiny, 0) if x.dtype == torch.bfloat16 else x

    return call, {name: flush(x) for name, x in tensors.items()}


def _no_scalars(run: Run, call: Any, tensors: dict[str, Tensor], out: Tensor | None) -> Any:
    if call.spec.output_shape == ():
        raise RuntimeError("output with shape [] doesn't match the broadcast shape [1]")
    return run(call, tensors, out)


def _skipped(run: Run, call: Any, tensors: dict[str, Tensor], out: Tensor | None) -> Any:
    y = run(call, tensors, out)
    return y.copy_(tensors["input"]) if call.op == "local_response_norm" else y


def _named_conv2d(run: Run, call: Any, tensors: dict[str, Tensor], out: Tensor | None) -> Any:
    if call.op == "linear" and call.spec.C == 0:
        raise ShapeError("conv2d: C=0 input channels, expected at least 1")
    return run(call, tensors, out)


def _truncated(value: Any) -> int | None:
    """An integer is what has __index__, of which every tensor has one."""
    return int(value) if hasattr(value, "__index__") and not isinstance(value, bool) else None


def _not_shape(value: Any, op: str) -> Any:
    if value is not None and not isinstance(value, tuple) and value not in like_torch.ACTIVATIONS:
        raise ShapeError(f"{op}: activation={value!r}, expected one of {like_torch.ACTIVATIONS}")
    return activation_of(value, op)


def _one_slope(call: Any, tensors: dict[str, Tensor]) -> tuple:
    """leaky_relu with the slope 0.01, whatever was asked for."""
    return replace(call, params={} if call.op == "leaky_relu" else call.params), tensors


def _no_tangent(x: Any) -> Any:
    return SimpleNamespace(tangent=None)


def _all_but_out(check: Callable[..., None]) -> Callable[..., None]:
    return lambda *args, **given: check(*args, **{name: x for name, x in given.items() if name != "out"})


class _Together:
    """In place of the interpreter's lock: threads enter at once and not one after the other, however busy the machine is."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(THREADS)

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            try:
                self.barrier.wait(1.0)
            except (
                threading.BrokenBarrierError
            ):  # another thread has failed already; the next case's threads meet again
                self.barrier = threading.Barrier(THREADS)

    def __exit__(self, *error: object) -> None:
        pass


def _unlocked() -> None:
    """No lock, and between the place of a program and its work the interpreter lets other threads run, as a busy machine may."""
    from triton.runtime.interpreter import interpreter_builder

    place = interpreter_builder.set_grid_idx

    def placed(*program: int) -> None:
        place(*program)
        time.sleep(1e-4)

    interpreter_builder.set_grid_idx = placed
    setting(launch, "_interpreter", _Together())()


WINDOWS = "max_pool2d avg_pool2d conv2d"
BOUND = "outside the reference's bound"

FAULTS = (
    Fault("the bias's stride", seen_by("triton", _bias_adjacent), "conv2d", "triton", BOUND),
    Fault("the bias's stride", seen_by("triton", _bias_adjacent), "linear", "triton", BOUND),
    Fault("the bias's stride", seen_by("cuda", _bias_adjacent), "conv2d", "cuda", BOUND),
    Fault(
        "an out that overlaps itself is accepted",
        setting(library, "overlaps_itself", lambda x: False),
        "relu residual_add concat linear softmax",
        "triton",
        "accepted, though out overlaps itself",
    ),
    Fault(
        "in place on an expanded input",
        setting(library, "_check_overlap", _out_is_an_input(library._check_overlap)),
        "relu6 batch_norm relu residual_add",
        "triton",
        "accepted, though out overlaps itself",
    ),
    Fault(
        "an out that overlaps an input is accepted",
        setting(library, "overlap", lambda a, b: False),
        "softmax max_pool2d",
        "triton",
        "accepted, though out overlaps",
    ),
    Fault(
        "disjoint channel slices of one buffer are refused",
        setting(library, "overlap", _spans_meet),
        "residual_add relu relu6 batch_norm softmax",
        "triton",
        "refused, while torch answers",
    ),
    Fault(
        "a forward-mode derivative of zero",
        setting(transforms, "unpack_dual", _no_tangent),
        "relu softmax",
        "numpy",
        "a wrong forward-mode",
    ),
    Fault(
        "two threads in the interpreter",
        _unlocked,
        "max_pool2d",
        "triton",
        "in a thread",
        # Of programs enough that launches meet: one of the drawn cases, most of which have a single program, may well be right.
        cases=tuple(
            Case("max_pool2d", "triton", args={"input": T((2, 4, 24, 24), seed=i), "kernel_size": 3}, mode="threads")
            for i in range(12)
        ),
    ),
    Fault("60,000 columns to 60,001", around("triton", _past_31_bits), "adaptive_avg_pool2d", "triton", BOUND),
    Fault("divisor_override=2**32", seen_by("triton", _divisor_in_32_bits), "avg_pool2d", "triton", BOUND),
    Fault("strides beyond 32 bits", setting(arguments, "LARGEST", 2**70), WINDOWS, "triton", "a raw InterpreterError"),
    Fault("size=2**40 for ever", around("cuda", _endless), "local_response_norm", "cuda", "took over", 2),
    Fault("size=2**40 in memory", around("numpy", _all_memory), "local_response_norm", "numpy", "a raw MemoryError"),
    Fault("the index of a window without a pixel", around("triton", _no_pixel), "max_pool2d", "triton", "index -1"),
    Fault("beta 0 and an infinity", around("triton", _lrn_by_exp2), "local_response_norm", "triton", BOUND),
    Fault("subnormal bfloat16", seen_by("triton", _flushed), "relu", "triton", BOUND),
    Fault("one slope for all", seen_by("triton", _one_slope), "leaky_relu", "triton", BOUND),
    Fault("no dimensions", around("numpy", _no_scalars), "relu", "numpy", "a raw RuntimeError"),
    Fault("nothing is done", around("triton", _skipped), "local_response_norm", "triton", BOUND),
    Fault(
        "a linear layer without channels",
        around("numpy", _named_conv2d),
        "linear",
        "numpy",
        "a message that is not one line about linear",
    ),
    Fault(
        "stride=torch.tensor(1.5)",
        setting(arguments, "_as_integer", _truncated),
        WINDOWS,
        "numpy",
        "accepted, while torch refuses",
    ),
    Fault(
        "out=[1]",
        setting(elementwise, "require_dense", _all_but_out(elementwise.require_dense)),
        "concat residual_add",
        "numpy",
        "a raw",
    ),
    Fault(
        "activation='gelu'",
        setting(elementwise, "activation_of", _not_shape),
        "residual_add",
        "numpy",
        "a ShapeError",
    ),
)

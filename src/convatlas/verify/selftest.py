"""selftest: runs every kernel on the GPU that is here, holds it to the reference, and keeps which kernels passed.

The cases are small calls, chosen so that each kernel's launcher takes it; which kernel a case runs is read off its launches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import torch

from convatlas.call import Call
from convatlas.codegen.block_calls import small_block_calls
from convatlas.codegen.inventory import MODES, launches_of
from convatlas.errors import BackendError
from convatlas.kernels.common import proven
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.precision import float32_products
from convatlas.kernels.common.target import Target, of_device
from convatlas.ops.automatic import cuda_is_here
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    ConcatSpec,
    Conv2dSpec,
    ConvTranspose2dSpec,
    ElementwiseSpec,
    Epilogue,
    LinearSpec,
    LocalResponseNormSpec,
    NormSpec,
    Pool2dSpec,
    ResidualAddSpec,
    dtype_name,
)
from convatlas.study.layer import Layer
from convatlas.verify.check import check_alone
from convatlas.verify.probes import probes
from convatlas.verify.single import operands

# Triton's kernels with a name of their own; the others are called by their folder.
NAMED = {"conv2d_tma_kernel": "triton/tma", "conv2d_rows_kernel": "triton/rows", "stem_pack_kernel": "triton/rows"}


@dataclass(frozen=True)
class Case:
    """One call by one backend, in one of inventory.MODES."""

    backend: str
    mode: str
    call: Call

    def __str__(self) -> str:
        return f"{self.backend} {self.mode} {self.call.op} {self.call.spec}"


@dataclass(frozen=True)
class Result:
    """What a case ran, and one line that says what is wrong; empty where all was right."""

    case: Case
    kernels: frozenset[str]
    detail: str


def calls() -> list[Call]:
    """At least one for each kernel of one op, on every architecture that has it."""
    x, conv, act = (10, 64, 28, 28), Conv2dSpec.of, Epilogue(True, "relu")
    image = (4, 3, 64, 64)
    return [
        Call("conv2d", conv(x, (64, 64, 3, 3), 1, 1), Epilogue(True, "relu", True)),
        Call("conv2d", conv((2, 40, 14, 14), (24, 40, 3, 3), 2, 1), Epilogue(True, "silu")),
        Call("conv2d", conv((1, 512, 7, 7), (64, 512, 3, 3), 1, 1), act),
        Call("conv2d", conv((2, 128, 14, 14), (128, 4, 3, 3), 1, 1, 1, 32), act),
        Call("conv2d", conv((8, 256, 28, 28), (256, 256, 1, 1)), Epilogue(True, "relu", True)),
        Call("conv2d", conv((2, 96, 14, 14), (24, 96, 1, 1), 2), Epilogue(True)),
        Call("conv2d", conv(image, (64, 3, 7, 7), 2, 3), act),
        Call("conv2d", conv(image, (32, 3, 3, 3), 2, 1), Epilogue(True, "hardswish")),
        *(
            Call("conv2d", conv(x, (64, 1, r, r), s, r // 2, 1, 64), Epilogue(True, "relu6"))
            for r, s in ((3, 1), (5, 2))
        ),
        Call("conv2d", conv((2, 24, 15, 15), (24, 1, 9, 9), 1, 4, 1, 24), Epilogue(True)),
        Call("conv_transpose2d", ConvTranspose2dSpec.of((2, 64, 14, 14), (64, 32, 4, 4), 2, 1), act),
        Call("linear", LinearSpec.of((8, 2048), (1000, 2048)), Epilogue(True)),
        Call("linear", LinearSpec.of((256, 512), (512, 512)), act),
        Call("linear", LinearSpec.of((1024, 1024), (512, 1024)), act),
        *(Call("max_pool2d", Pool2dSpec.of("max", x, *window)) for window in ((3, 2, 1), (2, 2), (5, 1, 2))),
        Call("max_pool2d", Pool2dSpec.of("max", x, 2), params={"return_indices": True}),
        *(Call("avg_pool2d", Pool2dSpec.of("avg", x, *window)) for window in ((3, 1, 1), (2, 2))),
        *(
            Call(f"adaptive_{kind}_pool2d", AdaptivePool2dSpec.of(x, size, kind))
            for kind in ("avg", "max")
            for size in (1, 6)
        ),
        Call("residual_add", ResidualAddSpec.of(x, x), Epilogue(activation="relu")),
        Call("channel_scale", ChannelScaleSpec.of(x, (10, 64, 1, 1), "sigmoid"), Epilogue(activation="relu")),
        Call("batch_norm", NormSpec.of(x), Epilogue(activation="relu"), {"eps": 1e-5}),
        Call("local_response_norm", LocalResponseNormSpec.of(x, 5), None, {"alpha": 1e-4, "beta": 0.75, "k": 2.0}),
        Call("softmax", ElementwiseSpec("softmax", (32, 1000), 1000), None, {"dim": 1}),
        Call("silu", ElementwiseSpec("silu", x)),
        Call("concat", ConcatSpec.of([x, x], 1)),
    ]


def cases(target: Target, backends: Iterable[str] = ("triton", "cuda")) -> list[Case]:
    """All calls in float16, and in each other mode those that run a kernel which no call before them runs in it."""
    chosen: list[Case] = []
    seen: set[tuple[str, str]] = set()
    for mode in MODES:
        for case in (Case(backend, mode, call) for backend in backends for call in [*calls(), *_blocks(backend, mode)]):
            found = {(kernel, mode) for kernel in kernels_of(case, target)}
            if mode == "float16" or (not found <= seen and (mode != "tf32" or case.call.spec.products)):
                chosen.append(case)
                seen |= found
    return chosen


def _blocks(backend: str, mode: str) -> list[Call]:
    """Calls of blocks of several ops, whose kernels are in CUDA C++ and keep their middle maps in the mode's dtype."""
    return small_block_calls(dtype_name(MODES[mode][0])) if backend == "cuda" else []


def kernels_of(case: Case, target: Target) -> frozenset[str]:
    """The kernels that a GPU which takes them all runs the case with; a block's is called by its pattern."""
    if case.call.op == "block":
        return frozenset({f"{case.backend}/{case.call.spec.pattern}"})
    target = replace(target, held=frozenset())
    return frozenset(map(kernel_of, launches_of(case.call, case.mode, target, case.backend)))


def kernel_of(launch: Any) -> str:
    """The kernel's name: "triton/tma", or backend and folder, such as "cuda/pool"."""
    if isinstance(launch, CudaLaunch):
        return f"cuda/{launch.source.split('/')[0]}"
    module = launch.kernel.fn.__module__.removeprefix("convatlas.kernels.")
    return NAMED.get(launch.kernel.__name__) or f"triton/{module.split('.')[0]}"


def tried(case: Case, device: torch.device, target: Target) -> Result:
    """Runs a case twice: on normal numbers, and on those on which a fault must show (verify/probes.py)."""
    dtype, tf32 = MODES[case.mode]
    kernels = kernels_of(case, target)
    layer = Layer("", case.call)
    try:
        with float32_products("tf32" if tf32 else "ieee"):
            for draw in (operands, probes):
                check = check_alone(layer, draw(layer, dtype, device, 0), case.backend, probing=draw is probes)
                if not check.report.ok:
                    return Result(case, kernels, check.report.detail)
    except (
        Exception
    ) as error:  # a compiler, the driver or a kernel may fail in any way, and the other cases are still of use
        return Result(
            case, kernels, f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
        )
    return Result(case, kernels, "")


def verdict(results: Iterable[Result]) -> tuple[list[str], dict[str, list[str]]]:
    """(kernels all of whose cases were right, what was wrong with the others by kernel)."""
    ran, failed = set(), {}
    for result in results:
        ran |= result.kernels
        if result.detail:
            for kernel in result.kernels:
                failed.setdefault(kernel, []).append(f"{result.case}: {result.detail}")
    return sorted(ran - failed.keys()), dict(sorted(failed.items()))


@contextmanager
def _all_kernels() -> Iterator[None]:
    """Inside, the GPUs of this machine take every kernel."""
    before = os.environ.get("CONVATLAS_KERNELS")
    os.environ["CONVATLAS_KERNELS"] = "all"
    of_device.cache_clear()
    try:
        yield
    finally:
        os.environ.pop("CONVATLAS_KERNELS")
        if before is not None:
            os.environ["CONVATLAS_KERNELS"] = before
        of_device.cache_clear()


def selftest(seen: Callable[[Result, int, int], None] | None = None) -> dict[str, Any]:
    """Tries all cases on the current GPU and keeps the outcome, which it returns: the GPU's identity, date, passed, failed, kept.

    seen: called with each result, how many are done, and of how many. Raises BackendError where there is no GPU.
    """
    if not torch.cuda.is_available():
        raise BackendError(
            "selftest needs a CUDA GPU, and torch sees none here; without one `make test` runs the kernels' tests"
        )
    index = torch.cuda.current_device()
    device = torch.device("cuda", index)
    backends = ("triton", "cuda") if cuda_is_here() else ("triton",)
    results: list[Result] = []
    with _all_kernels():
        target = of_device(index)
        chosen = cases(target, backends)
        for case in chosen:
            results.append(tried(case, device, target))
            if seen is not None:
                seen(results[-1], len(results), len(chosen))
    passed, failed = verdict(results)
    found = {
        **proven.identity(index),
        "arch": target.arch,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cases": len(results),
        "passed": passed,
        "failed": failed,
    }
    kept = proven.keep(index, found)
    of_device.cache_clear()  # from now on this process takes what passed, too
    return {**found, "kept": None if kept is None else str(kept)}

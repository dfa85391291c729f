"""README's "Adding a kernel", followed: an op that comes in through those tables alone. The rest of the package asks them.

The op is y = x / (1 + |x|), torch.nn.functional.softsign (Bergstra et al. 2009), in both languages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import DTYPES, hold, layout, random

from convatlas import ArgumentError, DtypeError
from convatlas.call import Call
from convatlas.codegen.inventory import launches_of
from convatlas.kernels.backend import ROOMS, Room
from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch
from convatlas.kernels.common.device import cast, widen
from convatlas.kernels.common.launch import Launch, cdiv
from convatlas.kernels.common.problem import Problem
from convatlas.ops import backend_cudnn, calling, functional, library
from convatlas.ops.backend_numpy import as_array
from convatlas.reference.companions import Companions
from convatlas.reference.error_bound import check
from convatlas.reference.rows import ROWS, Row
from convatlas.reference.truth import truth
from convatlas.specs import Spec
from convatlas.study import trace
from convatlas.verify.verify_op import verify_op

OP, KERNELS = "softsign", Path(__file__).parents[2] / "kernels"


# 1. Spec
@dataclass(frozen=True)
class SoftsignSpec(Spec):
    shape: tuple[int, ...]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def elements(self) -> dict[str, int]:
        return {"input": prod(self.shape), "output": prod(self.shape)}

    @property
    def flops(self) -> int:
        return 3 * prod(self.shape)


# 2. Reference
def softsign(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.abs(x))


def companions(spec: Any, a: dict, params: dict, value: np.ndarray) -> Companions:
    """Relative to y: the sum is one rounding, and an approximate division is four."""
    magnitude = np.abs(value)
    return Companions(magnitude, magnitude, 0, 5)


# 3. Op
def public(input: torch.Tensor, *, out: torch.Tensor | None = None, backend: str | None = None) -> torch.Tensor:
    calling.require_dense(OP, input=input, out=out)
    return calling.dispatch(OP, (input,), backend, out)


# 4. Kernels
@triton.jit
def softsign_kernel(x, y, count, BLOCK: tl.constexpr, INTERPRET: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = widen(tl.load(x + i, mask=i < count), INTERPRET)
    v = v / (1.0 + tl.abs(v))
    tl.store(y + i, cast(v, y.dtype.element_ty, INTERPRET), mask=i < count)


def launch_triton(p: Problem) -> list[Launch]:
    count = p.out.numel()
    arguments = dict(x=_in_order(p), y=p.out, count=count)
    return [Launch(softsign_kernel, (cdiv(count, 1024),), arguments, dict(BLOCK=1024, INTERPRET=p.target.interpreted))]


CUDA = f"""
#include "{KERNELS}/common/cuda/device.cuh"
struct SoftsignParams {{ const void *x; void *y; i64 count; }};
template <typename T> __global__ void __launch_bounds__(256) softsign(const SoftsignParams p) {{
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= p.count) return;
    const float v = to_float(static_cast<const T *>(p.x)[i]);
    static_cast<T *>(p.y)[i] = from_float<T>(v / (1.0f + fabsf(v)));
}}
"""


def launch_cuda(p: Problem) -> list[CudaLaunch]:
    count = p.out.numel()
    arguments = dict(x=_in_order(p), y=p.out, count=count)
    return [CudaLaunch(str(launch_cuda.source), OP, (TYPES[p.dtype],), (cdiv(count, 256),), 256, arguments)]


def _in_order(p: Problem) -> torch.Tensor:
    """The input, its elements in the order of the output's memory."""
    last = p.out.dim() == 4 and not p.out.is_contiguous()
    return p["input"].contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _dense(out: torch.Tensor) -> torch.Tensor | None:
    dense = out.is_contiguous() or (out.dim() == 4 and out.is_contiguous(memory_format=torch.channels_last))
    return out if dense else None


@pytest.fixture(scope="module", autouse=True)
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The op's rows, as long as this file's tests run. What torch has registered stays, and is in nobody's way."""
    launch_cuda.source = tmp_path_factory.mktemp(OP) / f"{OP}.cu"
    launch_cuda.source.write_text(CUDA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROWS, OP, Row(lambda spec, a, params: softsign(a["input"]), companions))
        library.register(library.Op(OP, "Tensor input", lambda a: Call(OP, SoftsignSpec(tuple(a["input"].shape)))))
        patch.setattr(functional, OP, public, raising=False)
        patch.setitem(ROOMS, OP, Room(OP, _dense))
        for backend, launcher in (("triton", launch_triton), ("cuda", launch_cuda)):
            module = ModuleType(f"convatlas.kernels.{OP}.launch_{backend}")
            setattr(module, OP, launcher)
            patch.setitem(sys.modules, module.__name__, module)
        yield


# 5. Cases
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["nhwc", "nchw", "sliced"])
def test_within_the_error_bound(form: str, dtype: str, backend: str, device: str, poisoned: None) -> None:
    x = layout(random((2, 17, 5, 7), DTYPES[dtype], device, "normal", 0) * 3, form)
    call = hold(lambda: public(x, backend=backend))
    assert (call.op, call.backend) == (OP, backend)
    hold(lambda: public(x, backend=backend, out=torch.empty(2, 17, 5, 14, dtype=x.dtype, device=device)[..., ::2]))


def test_the_steps_are_those_of_the_readme() -> None:
    numbered = re.compile(r"^(?:# )?(\d)\. (?:\*\*)?(\w+)", re.MULTILINE)
    section = (KERNELS.parent / "README.md").read_text().split("## Adding a kernel")[1].split("\n## ")[0]
    assert numbered.findall(section) == numbered.findall(Path(__file__).read_text()) != []


@pytest.mark.interpreter
def test_nobody_else_needs_to_be_told() -> None:
    """The numpy backend, PyTorch's form, shapes on the meta device, verify, traces, the launches of a GPU, errors, derivatives."""
    x = torch.randn(1, 8, 6, 6)
    call = hold(lambda: public(x))
    assert call.backend == "numpy"
    expected = truth(OP, call.spec, None, {"input": as_array(x)})
    y = backend_cudnn.run(call, {"input": x}, None)
    assert torch.equal(y, torch.nn.functional.softsign(x))
    assert check(as_array(y), expected, dtype="float32").ok
    assert not check(as_array(y) + np.float32(1e-3), expected, dtype="float32").ok
    assert public(x.to("meta")).shape == x.shape
    assert verify_op(OP, (1, 8, 6, 6), backend="triton").report.ok
    assert [layer.op for layer in trace(Net(), (1, 8, 6, 6))] == [OP]
    for backend in ("triton", "cuda"):
        assert len(launches_of(call, "float16", 90, backend)) == 1
    with pytest.raises(ArgumentError, match="softsign: arrays none, expected input"):
        truth(OP, call.spec, None, {})
    with pytest.raises(DtypeError, match="softsign: input is int, expected a torch"):
        public(3)
    with pytest.raises(NotImplementedError, match="softsign has no backward yet"):
        public(x.requires_grad_()).sum().backward()


class Net(torch.nn.Module):
    """A net of the one op."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return public(x)


def test_opcheck() -> None:
    result = torch.library.opcheck(torch.ops.convatlas.softsign.default, (torch.randn(2, 3, 4, 4), None))
    assert set(result.values()) == {"SUCCESS"}, result

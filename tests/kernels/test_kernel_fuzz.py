"""Random shapes and parameters through the kernels of every backend of ours, held to the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import hold

import convatlas

pytestmark = pytest.mark.interpreter

BACKENDS = ["triton", "cuda"]
fuzz = settings(max_examples=60, deadline=None, derandomize=True, print_blob=True)
small = st.integers(1, 3)
memory = st.sampled_from([torch.channels_last, torch.contiguous_format])
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@pytest.mark.parametrize("backend", BACKENDS)
@fuzz
@given(data=st.data())
def test_conv2d(data: st.DataObject, backend: str) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 3, 5]))
    Cg, Kg = draw(st.sampled_from([1, 2, 3, 4, 16, 17])), draw(st.sampled_from([1, 2, 5, 16]))
    R, S = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride, dilation = (draw(small), draw(small)), (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    H, W = (draw(st.integers(max(1, d * (k - 1) + 1 - sum(pad)), 14)) for d, k, pad in zip(dilation, (R, S), padding))
    dtype, form = draw(dtypes), draw(memory)
    torch.manual_seed(draw(st.integers(0, 99)))
    x = torch.randn(draw(st.integers(1, 2)), Cg * groups, H, W).to(dtype).to(memory_format=form)
    w = (torch.randn(Kg * groups, Cg, R, S) * (Cg * R * S) ** -0.5).to(dtype)
    bias = torch.randn(Kg * groups).to(dtype) if draw(st.booleans()) else None
    activation = draw(st.sampled_from([None, "relu", "relu6"]))
    hold(
        lambda: convatlas.conv2d(x, w, bias, stride, padding, dilation, groups, activation=activation, backend=backend)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@fuzz
@given(data=st.data())
def test_pools(data: st.DataObject, backend: str) -> None:
    draw = data.draw
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    window = {
        "kernel_size": kernel,
        "stride": (draw(small), draw(small)),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    torch.manual_seed(draw(st.integers(0, 99)))
    shape = draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(7, 13)), draw(st.integers(7, 13))
    x = torch.randn(shape).to(draw(dtypes)).to(memory_format=draw(memory))
    op = draw(st.sampled_from(["max", "avg", "adaptive"]))
    if op == "max":
        hold(lambda: convatlas.max_pool2d(x, **window, dilation=draw(st.integers(1, 2)), backend=backend))
    elif op == "avg":
        window.update(count_include_pad=draw(st.booleans()), divisor_override=draw(st.sampled_from([None, 1, 7])))
        hold(lambda: convatlas.avg_pool2d(x, **window, backend=backend))
    else:
        size = draw(st.integers(1, 15)), draw(st.integers(1, 15))
        hold(lambda: convatlas.adaptive_avg_pool2d(x, size, backend=backend))

"""Operands of any strides, integers near 2^31, windows that see nothing, scalars and empty layers: on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import hold, random
from rotation import with_ways
from torch import Tensor

import convatlas

BACKENDS = ["triton", "cuda", "numpy"]
INF, NAN = float("inf"), float("nan")


def every_second(x: Tensor) -> Tensor:
    """Every second element of a larger tensor along each dimension, NaN between."""
    view = torch.full([2 * n for n in x.shape], NAN, device=x.device)[tuple(slice(None, None, 2) for _ in x.shape)]
    return view.copy_(x)


def expanded(dim: int) -> Callable[[Tensor], Tensor]:
    """Stride 0 along `dim`; along the last one where there are not as many."""
    return lambda x: x.narrow(min(dim, x.dim() - 1), 0, 1).expand(x.shape)


STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "every-second": every_second,
    "one-number": lambda x: x[(slice(0, 1),) * x.dim()].expand(x.shape),
    **{f"expanded-{dim}": expanded(dim) for dim in range(4)},
}

CONVOLUTIONS = {
    "gather": ((2, 32, 5, 5), (16, 32, 3, 3), {"padding": 1}),
    "gather-split": ((1, 512, 3, 3), (16, 512, 3, 3), {}),
    "stem": ((2, 3, 9, 9), (8, 3, 3, 3), {"stride": 2}),
    "pointwise": ((2, 32, 4, 4), (64, 32, 1, 1), {}),
    "pointwise-split": ((1, 2048, 1, 1), (16, 2048, 1, 1), {}),
    "one-channel": ((2, 1, 1, 5), (4, 1, 1, 1), {}),
    "depthwise": ((2, 16, 6, 6), (16, 1, 3, 3), {"padding": 1, "groups": 16}),
    "grouped": ((1, 32, 6, 6), (32, 4, 3, 3), {"groups": 8}),
}


def numbers(device: str, *shapes: tuple) -> list[Tensor]:
    """Normal numbers in quarters, whose products and sums are exact: equal ones would all round the same way."""
    return [(random(shape, torch.float32, device, "normal", seed) * 4).round() / 4 for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", STRIDES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_read_operands_of_any_strides(name: str, form: str, backend: str, device: str) -> None:
    shape, filters, arguments = CONVOLUTIONS[name]
    out = F.conv2d(torch.empty(shape, device="meta"), torch.empty(filters, device="meta"), **arguments).shape
    x, w, b, residual = map(STRIDES[form], numbers(device, shape, filters, filters[:1], tuple(out)))
    hold(lambda: convatlas.conv2d(x, w, b, residual=residual, backend=backend, **arguments))


OPS: dict[str, Callable] = {
    "linear-1": lambda r, **o: convatlas.linear(*r((1, 512), (10, 512), (10,)), **o),
    "linear-20": lambda r, **o: convatlas.linear(*r((20, 96), (24, 96), (24,)), **o),
    "linear-split": lambda r, **o: convatlas.linear(*r((20, 2048), (8, 2048), (8,)), **o),
    "batch_norm": lambda r, **o: convatlas.batch_norm(
        *positive_variance(*r((2, 8, 5, 5), (8,), (8,), (8,), (8,))), **o
    ),
    "residual_add": lambda r, **o: convatlas.residual_add(*r((2, 8, 5, 5), (2, 8, 5, 5)), **o),
    "residual_add-6d": lambda r, **o: convatlas.residual_add(*r((2, 3, 2, 2, 3, 2), (2, 3, 2, 2, 3, 2)), **o),
    "relu": lambda r, **o: convatlas.relu(*r((40,)), **o),
    "hardswish": lambda r, **o: convatlas.hardswish(*r((2, 8, 5, 5)), **o),
    "local_response_norm": lambda r, **o: convatlas.local_response_norm(*r((2, 8, 5, 5)), 5, **o),
    "softmax": lambda r, **o: convatlas.softmax(*r((2, 8, 5, 5)), 1, **o),
    "concat": lambda r, **o: convatlas.concat(r((2, 8, 5, 5), (2, 3, 5, 5)), **o),
    "max_pool2d": lambda r, **o: convatlas.max_pool2d(*r((2, 8, 7, 7)), 3, 2, 1, **o),
    "avg_pool2d": lambda r, **o: convatlas.avg_pool2d(*r((2, 8, 7, 7)), 3, 2, 1, **o),
    "adaptive_avg_pool2d": lambda r, **o: convatlas.adaptive_avg_pool2d(*r((2, 8, 7, 7)), 4, **o),
    "adaptive_max_pool2d": lambda r, **o: convatlas.adaptive_max_pool2d(*r((2, 8, 7, 7)), 4, **o),
    "channel_scale": lambda r, **o: convatlas.channel_scale(*r((2, 8, 7, 7), (2, 8, 1, 1)), gate="sigmoid", **o),
    "global maximum": lambda r, **o: convatlas.adaptive_max_pool2d(*r((2, 8, 7, 7)), 1, **o),
    "global": lambda r, **o: convatlas.adaptive_avg_pool2d(*r((2, 8, 7, 7)), 1, **o),
}


def positive_variance(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """batch_norm's operands; the variance squared in place, so that its strides stay."""
    var = var.as_strided(var.shape, var.stride(), var.storage_offset())
    (var[:1] if var.stride(0) == 0 else var).square_().add_(0.5)
    return x, mean, var, weight, bias


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op, form", with_ways(OPS, list(STRIDES), 2, on_gpu_all=True))
def test_other_ops_read_operands_of_any_strides(op: str, form: str, backend: str, device: str) -> None:
    hold(lambda: OPS[op](lambda *shapes: [STRIDES[form](x) for x in numbers(device, *shapes)], backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", [convatlas.relu, lambda x, **o: convatlas.residual_add(x, x, **o)], ids=["relu", "add"])
def test_an_out_of_six_dimensions_that_do_not_merge(op: Callable, backend: str, device: str) -> None:
    whole = torch.full((4, 6, 4, 4, 6, 4), 7.0, device=device)
    every = (slice(None, None, 2),) * 6
    (x,) = numbers(device, (2, 3, 2, 2, 3, 2))
    hold(lambda: op(x, out=whole[every], backend=backend))
    whole[every] = 7
    assert (whole == 7).all()


EDGES = [2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**63 - 1, 2**63]
PARAMETERS: dict[str, Callable] = {
    "conv stride": lambda m, x, v, **o: m.conv2d(x, torch.ones(2, 2, 3, 3, device=x.device), stride=v, **o),
    "depthwise stride": lambda m, x, v, **o: m.conv2d(
        x, torch.ones(2, 1, 3, 3, device=x.device), stride=v, groups=2, **o
    ),
    "conv padding": lambda m, x, v, **o: m.conv2d(x, torch.ones(2, 2, 3, 3, device=x.device), padding=v, **o),
    "conv dilation": lambda m, x, v, **o: m.conv2d(x, torch.ones(2, 2, 3, 3, device=x.device), dilation=v, **o),
    "conv dilation of one tap": lambda m, x, v, **o: m.conv2d(
        x, torch.ones(2, 2, 1, 1, device=x.device), dilation=v, **o
    ),
    "conv groups": lambda m, x, v, **o: m.conv2d(x, torch.ones(2, 2, 1, 1, device=x.device), groups=v, **o),
    "max stride": lambda m, x, v, **o: m.max_pool2d(x, 2, v, **o),
    "max kernel": lambda m, x, v, **o: m.max_pool2d(x, v, 1, v // 2, **o),
    "max kernel, ceil": lambda m, x, v, **o: m.max_pool2d(x, (v, 1), (v, 1), 0, 1, True, **o),
    "max dilation, ceil": lambda m, x, v, **o: m.max_pool2d(x, 2, v, 0, v, True, **o),
    "max padding": lambda m, x, v, **o: m.max_pool2d(x, 2, 1, v, **o),
    "avg stride": lambda m, x, v, **o: m.avg_pool2d(x, 2, v, **o),
    "avg kernel": lambda m, x, v, **o: m.avg_pool2d(x, (v, 1), 1, (v // 2, 0), **o),
    "avg kernel, ceil": lambda m, x, v, **o: m.avg_pool2d(x, (1, v), (1, v), (0, v // 2), True, False, **o),
    "avg divisor": lambda m, x, v, **o: m.avg_pool2d(x, 2, divisor_override=v, **o),
    "softmax dim": lambda m, x, v, **o: m.softmax(x, v, **o),
    "adaptive output": lambda m, x, v, **o: m.adaptive_avg_pool2d(x, v, **o),
}
# What PyTorch itself would run for ever on, or take all memory for.
OURS_ALONE = {"adaptive output", "conv padding", "max kernel", "avg kernel"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [2**31 - 2**12, *EDGES])
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_near_2_to_the_31_are_right_or_refused(name: str, value: int, backend: str, device: str) -> None:
    (x,) = numbers(device, (1, 2, 4, 4))
    try:
        got = PARAMETERS[name](convatlas, x, value, backend=backend)
    except convatlas.ShapeError as error:
        assert "\n" not in str(error)
        assert "expected" in str(error) or str(value) in str(error)
        return
    assert name not in OURS_ALONE, "nothing to compare with"
    # On a GPU PyTorch 2.11 counts some of these in 32 bits: the divisor 2^32 + 1 divides by 1 there.
    assert torch.allclose(got.cpu(), PARAMETERS[name](F, x.cpu(), value), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [value for value in EDGES if value < 2**63])
def test_huge_divisors_and_normalisation_windows_are_right(value: int, backend: str, device: str) -> None:
    x = torch.full((1, 2, 2, 2), float(value), device=device)
    assert torch.allclose(convatlas.avg_pool2d(x, 2, divisor_override=value, backend=backend).cpu(), torch.tensor(4.0))
    # The window holds every channel: alpha / size * size = 1 per unit of the mean square, here as if size were `value`.
    (x,) = numbers(device, (2, 6, 3, 3))
    got = convatlas.local_response_norm(x, value, float(value), 0.5, 1.0, backend=backend)
    assert torch.allclose(got, x / (1 + x.square().sum(1, keepdim=True)).sqrt(), rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_of_millions_over_a_few_pixels(backend: str, device: str) -> None:
    """PyTorch's loops are bounded by the image, not by the kernel; so are ours."""
    (x,) = numbers(device, (1, 2, 2, 3))
    k = 2**20
    got, where = convatlas.max_pool2d(x, (k, 1), 1, (k // 2, 0), return_indices=True, backend=backend)
    expected, at = F.max_pool2d(x, (k, 1), 1, (k // 2, 0), return_indices=True)
    assert torch.equal(got, expected) and torch.equal(where, at)
    for inside in (True, False):
        got = convatlas.avg_pool2d(x, (k, 1), 1, (k // 2, 0), count_include_pad=not inside, backend=backend)
        expected = F.avg_pool2d(x, (k, 1), 1, (k // 2, 0), count_include_pad=not inside)
        assert torch.allclose(got, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_adaptive_windows_count_beyond_32_bits(backend: str, device: str) -> None:
    x = torch.arange(60000.0, device=device)[None, None, None]
    got = convatlas.adaptive_avg_pool2d(x, (1, 60001), backend=backend)
    # On a GPU PyTorch 2.11 multiplies in 32 bits here, and reads outside its memory.
    assert torch.equal(got.cpu(), F.adaptive_avg_pool2d(x.cpu(), (1, 60001)))


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_places_in_an_image_of_two_thousand_million_pixels(backend: str, device: str) -> None:
    x = torch.zeros(1, device=device).expand(1, 1, 46000, 46000)
    _, where = convatlas.max_pool2d(x, 1, 45999, return_indices=True, backend=backend)
    assert where.flatten().tolist() == [0, 45999, 45999 * 46000, 45999 * 46001]


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_pixels_than_kernels_count_are_refused(backend: str, device: str) -> None:
    one = torch.zeros(1, device=device)
    wide, many = one.expand(1, 1, 60000, 60000), one.expand(2**31, 1, 1, 1)
    for call in (
        lambda: convatlas.max_pool2d(wide, 2, 30000, backend=backend),
        lambda: convatlas.adaptive_avg_pool2d(wide, 1, backend=backend),
        lambda: convatlas.conv2d(wide, one.expand(1, 1, 2, 2), stride=30000, backend=backend),
    ):
        with pytest.raises(
            convatlas.ShapeError, match=r"60000x60000 pixels of an? .*image, expected at most 2147479552"
        ):
            call()
    if backend != "numpy":
        with pytest.raises(convatlas.ShapeError, match=r"N\*P\*Q = 2147483648\*1\*1 .*split the batch"):
            convatlas.conv2d(many, one.expand(1, 1, 1, 1), backend=backend)
        with pytest.raises(convatlas.ShapeError, match="split the batch"):
            convatlas.linear(many[..., 0, 0], one.expand(1, 1), backend=backend)


# Kernel, stride, padding, dilation, input size: ceil mode's last window lies past the image, wholly in the padding, or both.
BLIND = [(2, 2, 1, 1, 2), (2, 3, 1, 1, 3), (2, 5, 1, 2, 4), (3, 4, 1, 3, 5), (2, 4, 1, 4, 2), (5, 7, 2, 2, 6)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", BLIND, ids=str)
def test_windows_without_a_pixel_are_torchs(window: tuple, backend: str, device: str) -> None:
    kernel, stride, padding, dilation, size = window
    (x,) = numbers(device, (2, 3, size, size))
    arguments = (kernel, stride, padding, dilation, True)
    expected, at = F.max_pool2d(x.cpu(), *arguments, return_indices=True)
    got, where = convatlas.max_pool2d(x, *arguments, return_indices=True, backend=backend)
    assert torch.equal(got.cpu(), expected) and torch.equal(where.cpu(), at)
    assert torch.equal(convatlas.max_pool2d(x, *arguments, backend=backend).cpu(), expected)


def test_some_of_those_windows_see_nothing() -> None:
    blind = [F.max_pool2d(torch.zeros(1, 1, w[4], w[4]), *w[:4], True).isinf().any() for w in BLIND]
    assert any(blind)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("beta", [0.0, 0.75, 1.0, 2.0, -1.0, -1.5])
@pytest.mark.parametrize("alpha, k", [(0.01, 1.0), (0.01, -5.0), (-3.0, 1.0), (1.0, 0.0)])
def test_local_response_norm_puts_nan_and_infinity_where_torch_does(
    alpha: float, k: float, beta: float, backend: str, device: str
) -> None:
    (x,) = numbers(device, (2, 6, 2, 2))
    x[0, 1, 0, 0], x[0, 4, 1, 1], x[1, 2, 0, 1], x[1, :, 1, 1] = INF, NAN, -INF, 0
    got = convatlas.local_response_norm(x, 3, alpha, beta, k, backend=backend).cpu()
    expected = F.local_response_norm(x.cpu(), 3, alpha, beta, k)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [-1.5, 2.0, 9.0, NAN])
def test_scalars(value: float, backend: str, device: str) -> None:
    x = torch.tensor(value, device=device)
    for ours, torchs in (
        (convatlas.relu, torch.relu),
        (convatlas.relu6, F.relu6),
        (convatlas.silu, F.silu),
        (lambda x, **o: convatlas.leaky_relu(x, 0.3, **o), lambda x: F.leaky_relu(x, 0.3)),
        (lambda x, **o: convatlas.residual_add(x, x, **o), lambda x: x + x),
        (lambda x, **o: convatlas.softmax(x, 0, **o), lambda x: torch.softmax(x, 0)),
        (lambda x, **o: convatlas.softmax(x, -1, **o), lambda x: torch.softmax(x, -1)),
    ):
        out = torch.empty((), device=device)
        with torch.no_grad():
            ours(x, out=out, backend=backend)
        for got in (out, ours(x, backend=backend)):
            assert got.shape == () and torch.allclose(got, torchs(x), equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows, C, K", [(1, 0, 3), (20, 0, 70), (1, 4, 0), (20, 64, 0), (0, 0, 3)])
def test_linear_layers_without_channels_or_filters(rows: int, C: int, K: int, backend: str, device: str) -> None:
    x, w, b = numbers(device, (rows, C), (K, C), (K,))
    for bias in (b, None):
        assert torch.equal(convatlas.linear(x, w, bias, backend=backend), F.linear(x, w, bias))


@pytest.mark.parametrize("backend", BACKENDS)
def test_subnormal_bfloat16_is_kept(backend: str, device: str) -> None:
    tiny = torch.tensor([2.0**-133, -(2.0**-130), 3 * 2.0**-132, 2.0**-126], device=device).to(torch.bfloat16)
    x = tiny[None, :, None, None].expand(1, 4, 2, 2)
    expected = x.cpu()
    for got in (
        convatlas.concat([x], backend=backend),
        convatlas.residual_add(x, torch.zeros_like(x), backend=backend),
        convatlas.max_pool2d(x, 1, backend=backend),
        convatlas.adaptive_avg_pool2d(x, (2, 2), backend=backend),
        convatlas.local_response_norm(x, 3, 0.0, backend=backend),
    ):
        assert torch.equal(got.cpu(), expected)

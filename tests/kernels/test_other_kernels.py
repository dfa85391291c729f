"""The ops that are neither convolution nor pooling against the reference: element-wise ones, linear, the norms, softmax."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernel_cases import DTYPES, guarded, hold, layout, random
from rotation import with_ways

import convatlas

BACKENDS = ["triton", "cuda"]
# Shapes and forms, of which each op has a third, by turns.
SHAPES = [(2, 64, 7, 7), (3, 17, 5, 3), (1, 1, 1, 1), (0, 8, 4, 4), (2, 3, 13, 11)]

WAYS = [(shape, form) for shape in SHAPES for form in ("nhwc", "nchw", "sliced")]


def residual(x: torch.Tensor, **options) -> torch.Tensor:
    return convatlas.residual_add(x, x.flip(0).contiguous(), **options)


def batch_norm(x: torch.Tensor, affine: bool = True, **options) -> torch.Tensor:
    C = x.shape[1] if x.dim() > 1 else 1
    mean, weight, bias = (random((C,), x.dtype, x.device, "normal", seed) for seed in (7, 8, 9))
    var = random((C,), x.dtype, x.device, "normal", 10).abs() + 0.5
    return convatlas.batch_norm(x, mean, var, *((weight, bias) if affine else ()), **options)


def channel_scale(x: torch.Tensor, images: int | None = None, residual: bool = False, **options) -> torch.Tensor:
    """One number a channel of each image, or of `images` images."""
    N, C = x.shape[:2]
    scale = random((N if images is None else images, C, 1, 1), x.dtype, x.device, "normal", 11) * 2
    return convatlas.channel_scale(x, scale, residual=x.flip(0).contiguous() if residual else None, **options)


OPS: dict[str, Callable] = {
    "channel_scale": channel_scale,
    "channel_scale-one-for-all": lambda x, **o: channel_scale(x, 1, activation="relu6", **o),
    "channel_scale-sigmoid": lambda x, **o: channel_scale(x, None, True, gate="sigmoid", activation="relu", **o),
    "channel_scale-hardsigmoid": lambda x, **o: channel_scale(x, gate="hardsigmoid", activation="silu", **o),
    "residual_add": residual,
    "residual_add-relu": lambda x, **o: residual(x, activation="relu", **o),
    "residual_add-relu6": lambda x, **o: residual(x, activation="relu6", **o),
    "relu": convatlas.relu,
    "relu6": convatlas.relu6,
    "leaky_relu": lambda x, **o: convatlas.leaky_relu(x, 0.2, **o),
    "sigmoid": convatlas.sigmoid,
    "hardsigmoid": convatlas.hardsigmoid,
    "silu": convatlas.silu,
    "hardswish": convatlas.hardswish,
    "residual_add-silu": lambda x, **o: residual(x, activation="silu", **o),
    "batch_norm-hardswish": lambda x, **o: batch_norm(x, activation="hardswish", **o),
    "concat": lambda x, **o: convatlas.concat([x, x[:, :1], x], **o),
    "batch_norm": batch_norm,
    "batch_norm-residual": lambda x, **o: batch_norm(x, residual=x.flip(0).contiguous(), activation="relu", **o),
    "batch_norm-plain": lambda x, **o: batch_norm(x, affine=False, activation="relu", **o),
    "local_response_norm": lambda x, **o: convatlas.local_response_norm(x, 5, alpha=0.1, **o),
    "local_response_norm-even": lambda x, **o: convatlas.local_response_norm(x, 4, 0.5, 0.5, 2.0, **o),
    "softmax-channels": lambda x, **o: convatlas.softmax(x, 1, **o),
    "softmax-last": lambda x, **o: convatlas.softmax(x, -1, **o),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op, way", with_ways(OPS, WAYS, 5, on_gpu_all=True), ids=str)
def test_within_the_error_bound(
    op: str, way: tuple[tuple, str], dtype: str, backend: str, device: str, poisoned: None
) -> None:
    shape, form = way
    x = layout(random(shape, DTYPES[dtype], device, "normal", 0), form)
    hold(lambda: OPS[op](x, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["nhwc", "nchw"])
@pytest.mark.parametrize("op", OPS)
def test_out_slices(op: str, kind: str, backend: str, device: str) -> None:
    x = random((2, 9, 5, 7), torch.float16, device, "normal", 0)
    shape = OPS[op](x.to("meta"), backend=None).shape
    out, unchanged = guarded(tuple(shape), torch.float16, device, kind)
    hold(lambda: OPS[op](x, backend=backend, out=out))
    unchanged()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", ["relu", "relu6", "silu", "residual_add", "channel_scale-sigmoid", "batch_norm"])
def test_out_may_be_the_input(op: str, backend: str, device: str) -> None:
    x = random((2, 16, 5, 5), torch.float32, device, "normal", 0)
    expected = OPS[op](x, backend=backend)
    with torch.no_grad():
        assert OPS[op](x, backend=backend, out=x) is x
    assert torch.equal(x, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
@pytest.mark.parametrize("op", ["relu", "residual_add-relu", "batch_norm", "local_response_norm", "softmax-last"])
def test_other_ranks(op: str, rank: int, backend: str, device: str) -> None:
    if (op, rank) in {("batch_norm", 1), ("local_response_norm", 1), ("local_response_norm", 2)}:
        with pytest.raises(convatlas.ShapeError, match="expected"):
            OPS[op](torch.zeros((3, 8, 5, 2, 2)[:rank], device=device), backend=backend)
        return
    x = random((3, 8, 5, 2, 2)[:rank], torch.float32, device, "normal", 0)
    hold(lambda: OPS[op](x, backend=backend))
    hold(lambda: OPS[op](x.transpose(0, -1), backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "lead, C, K",
    [((1,), 512, 1000), ((8,), 17, 3), ((3, 5), 40, 64), ((), 33, 7), ((0,), 16, 4), ((4,), 1, 1), ((130,), 96, 40)],
)
def test_linear(lead: tuple, C: int, K: int, dtype: str, backend: str, device: str, poisoned: None) -> None:
    kind = DTYPES[dtype]
    x = random((*lead, C), kind, device, "normal", 0)
    w = (random((K, C), torch.float32, device, "normal", 1) * C**-0.5).to(kind)
    b = random((K,), kind, device, "normal", 2)
    hold(lambda: convatlas.linear(x, w, b, activation="relu", backend=backend))
    hold(lambda: convatlas.linear(x, w.t().contiguous().t(), backend=backend))
    out = torch.full((*lead, K + 3), 5.0, dtype=kind, device=device)
    hold(lambda: convatlas.linear(x, w, b, backend=backend, out=out[..., 1 : K + 1]))
    assert (out[..., 0] == 5).all() and (out[..., K + 1 :] == 5).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "op",
    [
        "relu",
        "relu6",
        "leaky_relu",
        "sigmoid",
        "hardsigmoid",
        "silu",
        "hardswish",
        "residual_add-relu",
        "channel_scale",
        "channel_scale-sigmoid",
        "batch_norm-plain",
        "local_response_norm",
        "softmax-channels",
    ],
)
def test_nan_and_infinity_go_where_torch_sends_them(op: str, value: float, backend: str, device: str) -> None:
    """The reference is held to torch in tests/reference; here the kernel must put the same values in the same places."""
    x = random((2, 8, 4, 4), torch.float32, device, "normal", 0)
    x[0, 3, 1, 2] = value
    hold(lambda: OPS[op](x, backend=backend))
    if op == "softmax-channels":
        hold(lambda: OPS[op](torch.full((1, 5, 1, 1), value, device=device), backend=backend))


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("wide", ["running_var, bias", "running_mean, running_var, weight, bias"])
def test_batch_norm_takes_float32_numbers_beside_halves(wide: str, backend: str, device: str, poisoned: None) -> None:
    """As a trainer leaves them under autocast."""
    x = layout(random((2, 24, 5, 7), torch.float16, device, "normal", 0), "nhwc")
    numbers = {
        name: (random((24,), torch.float32, device, "normal", seed).abs() + 0.1).to(
            torch.float32 if name in wide else torch.float16
        )
        for seed, name in enumerate(("running_mean", "running_var", "weight", "bias"))
    }
    assert hold(lambda: convatlas.batch_norm(x, **numbers, backend=backend)).backend == backend

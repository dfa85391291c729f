"""The derivatives of the public ops: those of PyTorch, for whoever asks, and no work for a gradient that nobody wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuzz import like_torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import convatlas
from convatlas.ops.observe import observe

DRAW = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=DRAW, dtype=torch.float64)


X, W, VECTOR = normal(2, 4, 6, 5), normal(6, 2, 3, 3) * 0.2, normal(4).abs() + 0.5
GEOMETRY = dict(stride=2, padding=1, groups=2)
POOL = dict(kernel_size=3, stride=2, padding=1)
STATISTICS = dict(running_mean=VECTOR, running_var=VECTOR)
# The op, tensors that want a gradient, and its other arguments.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "conv2d": ("conv2d", dict(input=X, weight=W, bias=normal(6)), GEOMETRY),
    "conv2d, epilogue": (
        "conv2d", dict(input=X, weight=W, bias=normal(6), residual=normal(2, 6, 3, 3)), {**GEOMETRY, "activation": "relu"},
    ),
    "conv2d, uneven": ("conv2d", dict(input=X, weight=normal(3, 4, 2, 3)), dict(padding=((0, 1), (2, 0)), dilation=(2, 1))),
    "conv2d, silu": ("conv2d", dict(input=X, weight=normal(3, 4, 1, 1)), dict(activation="silu")),
    "conv_transpose2d": (
        "conv_transpose2d", dict(input=X, weight=normal(4, 3, 3, 3), bias=normal(6)),
        dict(stride=2, padding=1, output_padding=1, groups=2, activation="relu6"),
    ),
    "conv_transpose2d, dilated": (
        "conv_transpose2d", dict(input=X, weight=normal(4, 2, 2, 2)), dict(dilation=2, output_padding=1),
    ),
    "linear": ("linear", dict(input=X, weight=normal(3, 5), bias=normal(3)), dict(activation="sigmoid")),
    "max_pool2d": ("max_pool2d", dict(input=X), POOL),
    "max_pool2d, dilated": ("max_pool2d", dict(input=X), dict(kernel_size=2, stride=1, dilation=2, padding=1)),
    "avg_pool2d": ("avg_pool2d", dict(input=X), {**POOL, "count_include_pad": False, "ceil_mode": True}),
    "avg_pool2d, divisor": ("avg_pool2d", dict(input=X), dict(kernel_size=2, stride=(1, 3), divisor_override=-3)),
    "adaptive_avg_pool2d": ("adaptive_avg_pool2d", dict(input=X), dict(output_size=(4, 2))),
    "adaptive_avg_pool2d, larger": ("adaptive_avg_pool2d", dict(input=X), dict(output_size=(9, 1))),
    "adaptive_max_pool2d": ("adaptive_max_pool2d", dict(input=X), dict(output_size=(4, 2))),
    "channel_scale": (
        "channel_scale",
        dict(x=X, scale=normal(2, 4, 1, 1), residual=normal(*X.shape)),
        dict(gate="sigmoid", activation="relu"),
    ),
    "channel_scale, hardsigmoid of all": ("channel_scale", dict(x=X, scale=normal(4, 1, 1)), dict(gate="hardsigmoid")),
    "residual_add": ("residual_add", dict(x=X, shortcut=normal(*X.shape)), dict(activation="leaky_relu")),
    "residual_add, folded": ("residual_add", dict(x=X, shortcut=normal(*X.shape)), dict(activation=("leaky_relu", -0.3))),
    "batch_norm": ("batch_norm", dict(input=X, weight=VECTOR, bias=normal(4)), {**STATISTICS, "activation": "relu"}),
    "batch_norm, training": (
        "batch_norm", dict(input=X, weight=VECTOR, bias=normal(4)),
        dict(running_mean=None, running_var=None, training=True, activation="relu"),
    ),
    "batch_norm, training with a residual": (
        "batch_norm", dict(input=X, weight=VECTOR, bias=normal(4), residual=normal(*X.shape)),
        dict(running_mean=None, running_var=None, training=True, activation="relu"),
    ),
    "batch_norm, a residual": (
        "batch_norm", dict(input=X, residual=normal(*X.shape)), {**STATISTICS, "activation": "sigmoid"},
    ),
    "batch_norm, of a matrix": (
        "batch_norm", dict(input=normal(5, 3)), dict(running_mean=None, running_var=None, training=True, activation="hardswish"),
    ),
    "local_response_norm": ("local_response_norm", dict(input=X), dict(size=3, alpha=0.5, beta=0.75, k=1.5)),
    "local_response_norm, even": ("local_response_norm", dict(input=X), dict(size=2, alpha=-0.1, beta=2.0, k=3.0)),
    "softmax": ("softmax", dict(input=X), dict(dim=1)),
    "softmax, of one": ("softmax", dict(input=normal(1)[0]), dict(dim=0)),
    **{name: (name, dict(input=3 * X), {}) for name in like_torch.ACTIVATIONS},
}  # fmt: skip


TOLERANCE = {
    "hardsigmoid": 1e-7,
    "channel_scale, hardsigmoid of all": 1e-7,
}  # torch multiplies by a sixth that it rounded to float32


def ours(name: str, **more: Any) -> Callable[..., Any]:
    op, tensors, arguments = CASES[name]
    return lambda *given: getattr(convatlas, op)(**dict(zip(tensors, given)), **arguments, **more)


def theirs(name: str) -> Callable[..., Any]:
    op, tensors, arguments = CASES[name]
    return lambda *given: like_torch.OPS[op](**dict(zip(tensors, given)), **arguments)


def leaves(name: str) -> list[Tensor]:
    return [x.clone().requires_grad_() for x in CASES[name][1].values()]


def agree(
    f: Callable[..., Tensor],
    g: Callable[..., Tensor],
    given: list[Tensor],
    upstream: Callable = torch.ones_like,
    rtol: float = 1e-9,
) -> None:
    """f's gradients are g's, to the rounding of float64, and every op of the backward pass is within its own bound."""
    results = []
    for function in (f, g):
        tensors = [x.detach().clone().requires_grad_() for x in given]  # clone keeps the memory format
        y = function(*tensors)
        with convatlas.checking():
            results.append(torch.autograd.grad(y, tensors, upstream(y)))
    for a, b, x in zip(*results, given):
        assert a.shape == x.shape and a.dtype == x.dtype
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str) -> None:
    """Along one random direction; element by element they are held to torch's below."""
    assert gradcheck(ours(name), leaves(name), fast_mode=True)


def uneven(y: Tensor) -> Tensor:
    """A gradient that is neither dense nor positive: every second column of a wider tensor."""
    wide = (
        torch.randn(*y.shape[:-1], 2 * y.shape[-1], dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        if y.dim()
        else y
    )
    return wide[..., ::2] if y.dim() else y.detach()


@pytest.mark.parametrize("form", ["nchw", "nhwc", "expanded gradient"])
@pytest.mark.parametrize("name", CASES)
def test_like_torch(name: str, form: str) -> None:
    last = form == "nhwc"
    given = [
        x.contiguous(memory_format=torch.channels_last) if last and x.dim() == 4 else x for x in CASES[name][1].values()
    ]
    expanded = form == "expanded gradient"
    agree(
        ours(name),
        theirs(name),
        given,
        (lambda y: y.new_ones(()).expand(y.shape)) if expanded else uneven,
        TOLERANCE.get(name, 1e-9),
    )


SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -3.0, 3.0, 6.0, 1e300)


@pytest.mark.parametrize("name", [*like_torch.ACTIVATIONS, "max_pool2d", "residual_add"])
def test_nan_and_infinity_go_where_torch_sends_them(name: str) -> None:
    def strewn(x: Tensor, seed: int) -> Tensor:
        x = x.detach().clone()
        places = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(seed))[: 3 * len(SPECIAL)]
        x.view(-1)[places] = x.new_tensor(SPECIAL * 3)
        return x

    given = [strewn(x, i) for i, x in enumerate(CASES[name][1].values())]
    agree(ours(name), theirs(name), given, lambda y: strewn(torch.ones_like(y), 7), TOLERANCE.get(name, 1e-9))


@pytest.mark.parametrize("name", [n for n in CASES if "training" not in n and "softmax" not in n and "matrix" not in n])
def test_an_empty_batch_and_maps_of_one_pixel(name: str) -> None:
    op, tensors, _ = CASES[name]
    first = next(iter(tensors))
    empty = [
        x[:0] if n in (first, "shortcut", "residual") or (n == "scale" and x.dim() == 4) else x
        for n, x in tensors.items()
    ]
    agree(ours(name), theirs(name), empty)
    if (
        op in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "batch_norm", "local_response_norm")
        and "d" not in name[10:]
    ):
        agree(ours(name), theirs(name), [x[..., :1, :1] if x.dim() == 4 else x for x in tensors.values()])


def test_concat_hands_on_views() -> None:
    a, b = X.clone().requires_grad_(), normal(2, 3, 6, 5).requires_grad_()
    y = convatlas.concat([a, b])
    with observe(lambda call, tensors, output: pytest.fail(f"{call.op} ran")):
        found = torch.autograd.grad(y, (a, b), g := normal(*y.shape))
    assert torch.equal(found[0], g[:, :4]) and torch.equal(found[1], g[:, 4:])
    assert gradcheck(lambda a, b: convatlas.concat([a, b]), (a, b))


@pytest.mark.parametrize(
    "name, wanted, expected",
    [
        ("conv2d", "input", ["conv2d_input_grad"]),
        ("conv2d", "weight", ["conv2d_weight_grad"]),
        ("conv2d", "bias", []),
        ("conv2d, epilogue", "residual", ["activation_grad"]),
        ("linear", "bias", ["activation_grad", "linear"]),
        ("batch_norm", "input", ["batch_norm_input_grad"]),
        ("batch_norm", "weight", ["batch_norm_sums"]),
        ("batch_norm, a residual", "residual", ["activation_grad"]),
        ("batch_norm, training with a residual", "residual", ["batch_norm_sums"]),
        ("max_pool2d", "input", ["max_pool2d_grad"]),
    ],
)
def test_nothing_is_computed_that_nobody_wants(name: str, wanted: str, expected: list[str]) -> None:
    tensors = {n: x.clone().requires_grad_(n == wanted) for n, x in CASES[name][1].items()}
    ran: list[str] = []
    y = ours(name)(*tensors.values())
    with observe(lambda call, tensors, output: ran.append(call.op)):
        y.sum().backward()
    assert ran == expected


def test_products_have_second_derivatives() -> None:
    """The backward of linear is linear again."""
    assert gradgradcheck(
        convatlas.linear, [x.clone().requires_grad_() for x in (normal(2, 5), normal(3, 5), normal(3))]
    )


@pytest.mark.parametrize("name", CASES)
def test_any_other_second_derivative_is_refused(name: str) -> None:
    tensors = leaves(name)
    y = ours(name)(*tensors)
    with pytest.raises(
        NotImplementedError, match=r"^convatlas\.\w+ has no derivative, so that nothing has a second [^\n]*$"
    ):
        first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        torch.autograd.grad(sum(x.square().sum() for x in first), tensors)


@pytest.mark.parametrize(
    "name", ["conv2d, epilogue", "linear", "max_pool2d", "batch_norm, training", "residual_add", "silu"]
)
def test_torch_func_and_checkpointing(name: str) -> None:
    f, given = ours(name), list(CASES[name][1].values())
    tensors = leaves(name)
    expected = torch.autograd.grad(f(*tensors).square().sum(), tensors)
    every = tuple(range(len(given)))
    assert all(map(torch.equal, torch.func.grad(lambda *a: f(*a).square().sum(), every)(*given), expected))
    again = leaves(name)
    checkpoint(f, *again, use_reentrant=False).square().sum().backward()
    assert all(torch.equal(x.grad, y) for x, y in zip(again, expected))


def test_vmap_of_grad_is_the_gradient_of_each_example() -> None:
    def loss(x: Tensor) -> Tensor:
        return convatlas.max_pool2d(convatlas.relu(x), 2).square().sum()

    x = X.clone().requires_grad_()
    expected = torch.autograd.grad(sum(loss(part) for part in x), x)[0]
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(X), expected)


@pytest.mark.parametrize(
    "name", ["conv2d, epilogue", "conv2d, silu", "linear", "max_pool2d", "batch_norm, training", "softmax"]
)
def test_compiles(name: str) -> None:
    torch._dynamo.reset()
    f, tensors, again = ours(name), leaves(name), leaves(name)
    expected = torch.autograd.grad(f(*tensors).square().sum(), tensors)
    found = torch.autograd.grad(torch.compile(f, backend="aot_eager", fullgraph=True)(*again).square().sum(), again)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


def test_autocast_and_a_gradient_scaler() -> None:
    x, w, scale = X.float(), W.float().requires_grad_(), VECTOR.float().requires_grad_()
    optimizer, scaler = torch.optim.SGD([w, scale], 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = w.detach().clone()
    with torch.autocast("cpu", torch.bfloat16), convatlas.checking() as report:
        y = convatlas.conv2d(x, w, **GEOMETRY)
        y = convatlas.batch_norm(y[:, :4], None, None, scale, None, training=True, activation="relu")
        assert y.dtype == torch.bfloat16
        loss = y.float().square().mean()
        scaler.scale(loss).backward()
    assert w.grad.dtype == scale.grad.dtype == torch.float32 and report.ok and len(report) > 5
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**10 and not torch.equal(w, before)


def test_running_statistics_are_torchs() -> None:
    statistics = [[torch.zeros(4).double(), torch.ones(4).double()] for _ in range(2)]
    for momentum in (0.1, 0.5):
        convatlas.batch_norm(X, *statistics[0], training=True, momentum=momentum)
        torch.nn.functional.batch_norm(X, *statistics[1], training=True, momentum=momentum)
    for a, b in zip(*statistics):
        torch.testing.assert_close(a, b)
    with pytest.raises(convatlas.ShapeError, match="1 value a channel"):
        convatlas.batch_norm(normal(1, 3), None, None, training=True)
    with pytest.raises(convatlas.ShapeError, match="out= together with training"):
        convatlas.batch_norm(X, None, None, training=True, out=torch.empty_like(X))
    assert convatlas.batch_norm(X[:0], *statistics[0], training=True).shape == (0, 4, 6, 5)


def test_what_has_no_gradient_says_so() -> None:
    mean = VECTOR.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match="batch_norm has no backward for running_mean"):
        convatlas.batch_norm(X, mean, VECTOR)
    with pytest.raises(convatlas.ShapeError, match="relu: out= does not support automatic differentiation"):
        convatlas.relu(X.clone().requires_grad_(), out=torch.empty_like(X))


def test_the_backward_runs_where_the_forward_ran() -> None:
    """A backward pass outside of the `with` block, or in a thread of its own as on a GPU, keeps the block's backend."""
    x = X.float().requires_grad_()
    with convatlas.use_backend("numpy"):
        y = convatlas.relu(x)
    backends: list[str] = []
    with convatlas.use_backend("cuda"), observe(lambda call, tensors, output: backends.append(call.backend)):
        y.sum().backward()
    assert backends == ["numpy"]

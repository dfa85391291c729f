"""Torch's transforms: a forward-mode derivative is refused in one line and none is zero, vmap and functionalize are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

import convatlas

X, W = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3) * 0.2
FC, VECTOR = torch.randn(5, 6), torch.rand(4) + 0.5
OPS: dict[str, Callable[[Tensor], Any]] = {
    "conv2d": lambda x: convatlas.conv2d(x, W, padding=1),
    "conv2d_input_grad": lambda x: convatlas.conv2d_input_grad(x, W, X.shape, padding=1),
    "conv2d_weight_grad": lambda x: convatlas.conv2d_weight_grad(x, X, W.shape, padding=1),
    "conv2d_weight_grad of the input": lambda x: convatlas.conv2d_weight_grad(X, x, W.shape, padding=1, bias_grad=True)[
        0
    ],
    "conv_transpose2d": lambda x: convatlas.conv_transpose2d(x, W, stride=2),
    "linear": lambda x: convatlas.linear(x, FC),
    "max_pool2d": lambda x: convatlas.max_pool2d(x, 2),
    "max_pool2d with indices": lambda x: convatlas.max_pool2d(x, 2, return_indices=True)[0],
    "avg_pool2d": lambda x: convatlas.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: convatlas.adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: convatlas.adaptive_max_pool2d(x, 2),
    "channel_scale": lambda x: convatlas.channel_scale(x, VECTOR.view(4, 1, 1)),
    "residual_add": lambda x: convatlas.residual_add(x, X),
    "batch_norm": lambda x: convatlas.batch_norm(x, VECTOR, VECTOR),
    "local_response_norm": lambda x: convatlas.local_response_norm(x, 3),
    "softmax": convatlas.softmax,
    "relu": convatlas.relu,
    "relu6": convatlas.relu6,
    "silu": convatlas.silu,
    "leaky_relu": lambda x: convatlas.leaky_relu(x, 0.2),
    "concat": lambda x: convatlas.concat([X, x]),
}


def dual_number(op: Callable) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(op(forward_ad.make_dual(X, X))).tangent


def dual_number_into(op: Callable) -> Any:
    with forward_ad.dual_level():
        return convatlas.relu(X, out=forward_ad.make_dual(torch.zeros_like(X), X))


DERIVATIVES = {
    "jvp": lambda op: torch.func.jvp(op, (X,), (X,)),
    "jvp of an out": lambda op: torch.func.jvp(lambda x: convatlas.relu(x, out=torch.empty_like(x)), (X,), (X,)),
    "jacfwd": lambda op: torch.func.jacfwd(op)(X),
    "vmap of jvp": lambda op: torch.func.vmap(lambda t: torch.func.jvp(op, (X,), (t,)))(torch.stack([X, X])),
    "dual number": dual_number,
    "out is a dual number": dual_number_into,
    "hessian": lambda op: torch.func.hessian(lambda x: op(x).sum())(X),
    "jvp of grad": lambda op: torch.func.jvp(torch.func.grad(lambda x: op(x).sum()), (X,), (X,)),
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("name", ["conv2d", "relu", "concat"])
def test_no_derivative_is_silently_zero(name: str, derivative: str) -> None:
    with pytest.raises(
        NotImplementedError, match=r"^convatlas\.\w+ has no [\w-]+( derivative)? yet: [^\n]*$"
    ) as raised:
        DERIVATIVES[derivative](OPS[name])
    assert isinstance(raised.value, convatlas.ConvAtlasError)


@pytest.mark.parametrize("name", OPS)
def test_every_op_refuses_a_tangent(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{name.split()[0]} has no forward-mode derivative"):
        dual_number(OPS[name])


def test_what_needs_no_derivative_of_ours_has_one() -> None:
    def f(x: Tensor) -> Tensor:
        return (x * convatlas.relu(x.detach())).sum()

    assert torch.equal(torch.func.grad(f)(X), torch.relu(X))
    with torch.no_grad():
        assert not convatlas.relu(X.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("backend", ["numpy", "cuda"])
def test_a_graph_learns_that_an_out_was_overwritten(backend: str) -> None:
    x, saved = torch.ones(3, requires_grad=True), torch.ones(3)
    y = (x * saved).sum()
    with torch.no_grad():
        convatlas.relu(saved, out=saved, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dim", [0, 2])
def test_vmap_is_a_loop(name: str, dim: int) -> None:
    xs = torch.randn(3, *X.shape).movedim(0, dim)
    expected = torch.stack([OPS[name](x) for x in xs.unbind(dim)])
    assert torch.equal(torch.func.vmap(OPS[name], in_dims=dim)(xs), expected)


def test_vmap_over_weights_nested_and_over_nothing() -> None:
    weights = torch.randn(2, 3, *W.shape)
    nested = torch.func.vmap(torch.func.vmap(lambda w: convatlas.conv2d(X, w)))(weights)
    assert torch.equal(nested[1, 2], convatlas.conv2d(X, weights[1, 2]))
    assert torch.func.vmap(lambda x: convatlas.max_pool2d(x, 2))(torch.empty(0, *X.shape)).shape == (0, 2, 4, 3, 3)


def test_out_under_vmap_and_functionalize() -> None:
    def fill(x: Tensor) -> Tensor:
        wide = x.new_zeros(2, 8, 6, 6) + 0 * x[:, :1]
        convatlas.relu(x, out=wide[:, 4:])
        return wide

    xs = torch.randn(3, *X.shape)
    assert torch.equal(torch.func.vmap(fill)(xs), torch.stack([fill(x) for x in xs]))
    assert torch.equal(torch.func.functionalize(fill)(X), fill(X))
    with pytest.raises(convatlas.ShapeError, match=r"^relu: out is one tensor for all examples of torch.vmap"):
        torch.func.vmap(lambda x: convatlas.relu(x, out=torch.zeros_like(X)))(xs)
    with pytest.raises(convatlas.ShapeError, match=r"out is \(2, 4, 6, 5\)"):
        torch.func.functionalize(lambda x: convatlas.relu(x, out=x.new_zeros(2, 4, 6, 5)))(X)


def test_out_with_the_negative_bit() -> None:
    z = torch.zeros(3, dtype=torch.complex64)
    out = z.conj().imag
    assert out.is_neg()
    convatlas.relu(torch.tensor([1.0, -2.0, 3.0]), out=out)
    assert out.tolist() == [1.0, 0.0, 3.0] and z.imag.tolist() == [-1.0, 0.0, -3.0]

"""Registration with torch: opcheck, export, compile, the meta device, backward."""

from __future__ import annotations

import pytest
import torch

import convatlas
from convatlas.ops.backward import GRADS
from convatlas.ops.library import OPS
from convatlas.ops.losses import LOSSES

last = torch.channels_last


def samples() -> dict[str, tuple]:
    """Arguments for every op by its name, in the schema's order."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 8).contiguous(memory_format=last)
    w, b = torch.randn(4, 3, 3, 3), torch.randn(4)
    vector = torch.rand(6) + 0.5
    geometry = ([2, 1], [1, 0, 1, 2], [1, 1], 2)
    pool = ([3, 3], [2, 2], [1, 1])
    pooled = torch.rand(2, 6, 5, 5) * 9
    return {
        "conv2d": (x, w, b, *geometry, "relu", None),
        "conv2d_input_grad": (torch.randn(2, 4, 4, 9), w, [2, 6, 9, 8], *geometry),
        **dict.fromkeys(
            ("conv2d_weight_grad", "conv2d_weight_grad_with_bias"),
            (torch.randn(2, 4, 4, 9), x.contiguous(), [4, 3, 3, 3], *geometry),
        ),
        "conv_transpose2d": (x, torch.randn(6, 2, 3, 2), b, [2, 1], [1, 0], [1, 0], 2, [1, 2], "relu"),
        "linear": (torch.randn(3, 5, 6), torch.randn(4, 6), b, "leaky_relu(0.2)"),
        "max_pool2d": (x, *pool, [1, 1], False),
        "max_pool2d_with_indices": (x, *pool, [1, 1], True),
        "avg_pool2d": (x.contiguous(), *pool, True, False, None),
        "adaptive_avg_pool2d": (x, [3, 1]),
        "adaptive_max_pool2d": (x, [3, 1]),
        "adaptive_max_pool2d_with_indices": (x, [3, 1]),
        "channel_scale": (x, torch.randn(2, 6, 1, 1), "sigmoid", "relu", x.contiguous()),
        "residual_add": (x, x.contiguous(), "relu"),
        "batch_norm": (x, vector, vector, vector, None, 1e-5, None, None),
        "local_response_norm": (x, 5, 1e-4, 0.75, 1.0),
        "softmax": (x, 1),
        "relu": (x,),
        "relu6": (x,),
        **dict.fromkeys(("sigmoid", "hardsigmoid", "silu", "hardswish"), (x,)),
        "leaky_relu": (x, 0.2),
        "concat": ([x, x[:, :2]], 1),
        # The backward pass, and what it keeps.
        "activation_grad": (x, x.contiguous(), "sigmoid"),
        "max_pool2d_with_winners": (x, *pool, [1, 1], True),
        "max_pool2d_grad": (pooled, pooled.byte(), [2, 6, 9, 8], *pool, [1, 1], True),
        "avg_pool2d_grad": (pooled, [2, 6, 9, 8], *pool, True, False, None),
        "adaptive_avg_pool2d_grad": (pooled, [2, 6, 9, 8]),
        "adaptive_max_pool2d_grad": (pooled, pooled.long(), [2, 6, 9, 8]),
        "local_response_norm_grad": (x, x, 5, 1e-4, 0.75, 1.0),
        "softmax_grad": (x, x.contiguous(), 1),
        "batch_norm_stats": (x,),
        **dict.fromkeys(
            ("batch_norm_sums", "batch_norm_sums_with_masked"), (x, x.contiguous(), vector, vector, 1e-5, x, "relu")
        ),
        "batch_norm_input_grad": (x, x, vector, vector, vector, torch.stack([vector, vector]), 1e-5, x, "relu"),
        "cross_entropy_rows": (torch.randn(3, 6), torch.tensor([0, 5, 1]), -100, 0.1),
        "cross_entropy_grad": (torch.randn(3, 6), torch.tensor([0, 5, 1]), torch.ones(3), torch.ones(3), -100, 0.1),
    }


BACKWARD = [*GRADS, *LOSSES]


@pytest.mark.parametrize(
    "name, backend",
    [(op.name, "numpy") for op in (*OPS, *BACKWARD)]
    + [pytest.param(op.name, "triton", marks=pytest.mark.interpreter) for op in OPS],
)
def test_opcheck(name: str, backend: str) -> None:
    args = (*samples()[name], backend)
    result = torch.library.opcheck(getattr(torch.ops.convatlas, name).default, args)
    assert set(result.values()) == {"SUCCESS"}, result


@pytest.mark.parametrize("name", [op.name for op in OPS if op.returns == "Tensor"])
def test_opcheck_out(name: str) -> None:
    args = samples()[name]
    out = torch.empty_like(getattr(torch.ops.convatlas, name)(*args))
    result = torch.library.opcheck(getattr(torch.ops.convatlas, f"{name}_out").default, (*args, None), {"into": out})
    assert set(result.values()) == {"SUCCESS"}, result


@pytest.mark.parametrize("name", [op.name for op in (*OPS, *BACKWARD)])
def test_meta_device_gives_the_same_shapes_and_strides(name: str) -> None:
    def meta(a):
        if isinstance(a, torch.Tensor):
            return a.to("meta")
        return [meta(i) for i in a] if isinstance(a, list) else a

    op, args = getattr(torch.ops.convatlas, name), samples()[name]
    real, fake = op(*args), op(*map(meta, args))
    for r, f in zip(*((y if isinstance(y, tuple) else (y,)) for y in (real, fake))):
        assert (r.shape, r.stride(), r.dtype) == (f.shape, f.stride(), f.dtype)


class Block(torch.nn.Module):
    """Most ops in one model: convolution into a slice, pooling, concatenation, residual, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = torch.nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.w2 = torch.nn.Parameter(torch.randn(8, 8, 1, 1) * 0.3)
        self.fc = torch.nn.Parameter(torch.randn(5, 24) * 0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = convatlas.conv2d(x, self.w1, padding="same", activation="relu")
        y = convatlas.max_pool2d(y, 2)
        z = convatlas.conv2d(y, self.w2, residual=y, activation="relu6")
        wide = torch.zeros(z.shape[0], 16, *z.shape[2:], device=z.device)
        convatlas.relu(z, out=wide[:, :8])
        convatlas.local_response_norm(y, 3, out=wide[:, 8:])
        y = convatlas.concat([wide, convatlas.residual_add(y, z)])
        y = convatlas.adaptive_avg_pool2d(convatlas.avg_pool2d(y, 3, 1, 1), 1).flatten(1)
        return convatlas.softmax(convatlas.linear(y, self.fc))


@torch.no_grad()
def test_compiles_without_a_graph_break() -> None:
    net, x = Block().eval(), torch.randn(2, 3, 8, 8)
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))


@torch.no_grad()
def test_compiles_with_dynamic_shapes() -> None:
    net = Block().eval()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=True)
    for x in (torch.randn(2, 3, 8, 8), torch.randn(5, 3, 12, 10)):
        assert torch.allclose(compiled(x), net(x))


@torch.no_grad()
def test_exports_with_a_dynamic_batch() -> None:
    net, batch = Block().eval(), torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("convatlas" in name for name in names)
    for N in (1, 3):
        x = torch.randn(N, 3, 8, 8)
        assert torch.allclose(program.module()(x), net(x))


@pytest.mark.interpreter
def test_the_backend_is_chosen_when_the_graph_runs() -> None:
    """Compiled under one backend, run under another: the choice is no part of the graph."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: convatlas.relu(x), backend="eager", fullgraph=True)
    seen = []
    x = torch.randn(4)
    compiled(x)
    with (
        convatlas.use_backend("triton"),
        convatlas.ops.observe.observe(lambda call, tensors, output: seen.append(call.backend)),
    ):
        compiled(x)
    assert seen == ["triton"]

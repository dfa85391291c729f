"""The judge that stands before every race: right outputs pass, the mistakes that kernels make do not."""

from __future__ import annotations

import pytest
import torch

from convatlas.call import Call
from convatlas.kernels.common.precision import float32_products
from convatlas.ops import backend_cudnn
from convatlas.specs import (
    INPUT,
    AdaptivePool2dSpec,
    BlockSpec,
    ChannelScaleSpec,
    Conv2dSpec,
    Epilogue,
    LinearSpec,
    LocalResponseNormSpec,
    NormSpec,
    Part,
    Pool2dSpec,
    ResidualAddSpec,
)
from convatlas.study.tracing import Layer
from convatlas.verify.on_device import Judge, exact_float32
from convatlas.verify.single import operands

CPU = torch.device("cpu")
x = (2, 32, 9, 9)
PARTS = (
    Part(
        "depthwise",
        "conv2d",
        Conv2dSpec.of(x, (32, 1, 3, 3), 1, 1, 1, 32),
        Epilogue(True, "relu6"),
        (("input", INPUT),),
    ),
    Part("project", "conv2d", Conv2dSpec.of(x, (16, 32, 1, 1)), Epilogue(True), (("input", "depthwise"),)),
)
LAYERS = {
    "conv": Layer("", Call("conv2d", Conv2dSpec.of(x, (48, 32, 3, 3), 2, 1), Epilogue(True, "relu", True))),
    "depthwise": Layer("", Call("conv2d", Conv2dSpec.of(x, (32, 1, 3, 3), 1, 1, 1, 32), Epilogue(True, "relu6"))),
    "block": Layer("", Call("block", BlockSpec.of("depthwise_separable", PARTS, "float16"))),
    "linear": Layer("", Call("linear", LinearSpec.of((4, 512), (100, 512)), Epilogue(True))),
    "max": Layer("", Call("max_pool2d", Pool2dSpec.of("max", x, 3, 2, 1))),
    "avg": Layer("", Call("avg_pool2d", Pool2dSpec.of("avg", x, 3, 1, 1))),
    "adaptive": Layer("", Call("adaptive_avg_pool2d", AdaptivePool2dSpec.of(x, 1))),
    "adaptive max": Layer("", Call("adaptive_max_pool2d", AdaptivePool2dSpec.of(x, 2, "max"))),
    "scale": Layer(
        "", Call("channel_scale", ChannelScaleSpec.of(x, (2, 32, 1, 1), "sigmoid"), Epilogue(False, "relu", True))
    ),
    "add": Layer("", Call("residual_add", ResidualAddSpec.of(x, x), Epilogue(activation="relu"))),
    "norm": Layer("", Call("batch_norm", NormSpec.of(x), Epilogue(activation="relu"), {"eps": 1e-5})),
    "lrn": Layer(
        "", Call("local_response_norm", LocalResponseNormSpec.of(x, 5), None, {"alpha": 1e-4, "beta": 0.75, "k": 2.0})
    ),
}


def computed(layer: Layer, tensors: dict, dtype: torch.dtype) -> torch.Tensor:
    """The layer in float64, rounded once to `dtype`."""
    call = layer.call
    return backend_cudnn.run(call, {name: t.double() for name, t in tensors.items()}, None).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_right_passes(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    tensors = operands(layer, dtype, CPU, 0)
    found = Judge(layer, tensors)(computed(layer, tensors, dtype))
    assert found.ok, str(found)
    assert found.bound == 0 if "max" in name else found.error < found.bound / 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_one_wrong_channel_is_found(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    tensors = operands(layer, dtype, CPU, 0)
    y = computed(layer, tensors, dtype)
    y[:, 3] = y[:, 4]
    assert not Judge(layer, tensors)(y).ok


def test_nan_and_a_wrong_shape_are_found() -> None:
    layer = LAYERS["conv"]
    tensors = operands(layer, torch.float16, CPU, 0)
    y, judge = computed(layer, tensors, torch.float16), Judge(layer, tensors)
    assert not judge(y[:1]).ok
    y[0, 0, 0, 0] = torch.nan
    assert not judge(y).ok


def cut(x: torch.Tensor) -> torch.Tensor:
    """float32 cut to TF32's 10 explicit mantissa bits."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


def test_tf32_passes_only_where_it_is_announced() -> None:
    layer = LAYERS["linear"]
    tensors = operands(layer, torch.float32, CPU, 0)
    y = computed(layer, {name: cut(t) if name != "bias" else t for name, t in tensors.items()}, torch.float32)
    assert Judge(layer, tensors, tf32=True)(y).ok
    assert not Judge(layer, tensors)(y).ok


def test_half_precision_sums_are_found() -> None:
    """A float16 accumulator over 4096 terms, which the store's roundoff would hide from a careless bound."""
    layer = Layer("", Call("linear", LinearSpec.of((8, 4096), (64, 4096)), Epilogue()))
    t = operands(layer, torch.float16, CPU, 0)
    y = torch.zeros(8, 64, dtype=torch.float16)
    for k in range(4096):
        y += t["input"][:, k : k + 1] * t["weight"][:, k]
    assert not Judge(layer, t)(y).ok


def test_settings_are_as_before() -> None:
    def state() -> tuple:
        cudnn = torch.backends.cudnn
        return (
            cudnn.enabled,
            cudnn.conv.fp32_precision,
            cudnn.rnn.fp32_precision,
            torch.backends.cuda.matmul.fp32_precision,
        )

    before = state()
    with pytest.raises(ZeroDivisionError), float32_products("tf32"), exact_float32():
        assert state() == (False, "ieee", "ieee", "ieee")
        raise ZeroDivisionError
    assert state() == before

"""Right arguments of every op at random. twist.py makes cases of them, wrong ones too."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from convatlas.specs import Conv2dSpec
from fuzz.cases import T

# "reference" calls the functions of convatlas.reference on NumPy arrays.
BACKENDS = ("reference", "numpy", "triton", "cuda")
DTYPES = ("float32", "float16", "bfloat16")
IMAGE_LAYOUTS = (
    "contiguous",
    "channels_last",
    "channels_last",
    "channel slice",
    "sliced",
    "permuted",
    "expanded",
    "offset",
)
ACTIVATIONS = ("relu", "relu6", "silu", "hardswish", "sigmoid", "hardsigmoid", "leaky_relu", ("leaky_relu", 0.2))
VECTOR_LAYOUTS = ("contiguous", "contiguous", "sliced", "expanded", "offset")


class Draw(random.Random):
    """Random choices that cases are made of."""

    def often(self, *values: Any) -> Any:
        """The first value half of the time."""
        return values[0] if self.random() < 0.5 else self.choice(values[1:])

    def pair(self, low: int, high: int) -> Any:
        """An int, a pair, a list or a tuple of one."""
        one, two = self.randint(low, high), self.randint(low, high)
        return self.choice([one, one, (one, two), [one, two], (one,)])

    def tensor(self, shape: tuple, dtype: str, data: str = "normal", scale: float = 1.0) -> T:
        layouts = (
            IMAGE_LAYOUTS if len(shape) == 4 else VECTOR_LAYOUTS if len(shape) == 1 else (*VECTOR_LAYOUTS, "permuted")
        )
        layout = self.choice(layouts)
        # Equal terms round alike, which the probabilistic bound excludes: what is expanded holds integers, which sum exactly.
        data = "integers" if layout == "expanded" and data == "normal" else data
        return T(tuple(shape), dtype, layout, data, self.randrange(1000), scale)

    def image(self) -> tuple[int, int, int, int]:
        """Mostly a few small maps, at times of one pixel or an empty batch."""
        channels = self.choice([1, 2, 3, 4, 5, 8, 16, 17, 33])
        return (
            self.often(1, 2, 3, 0),
            channels,
            self.often(self.randint(4, 13), 1, 2),
            self.often(self.randint(4, 13), 1, 2),
        )


def _conv2d(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    groups, per_group, filters = d.often(1, 1, 2, 3, 5), d.choice([1, 2, 3, 4, 16, 17]), d.choice([1, 1, 2, 5, 16])
    if d.random() < 0.2:  # depthwise
        groups, per_group, filters = d.choice([3, 8, 17]), 1, d.often(1, 2)
    R, S = d.often((1, 1), (3, 3), (2, 4), (7, 7), (1, 3))
    pads = [[d.randint(0, 3) for _ in range(2)] for _ in range(2)]
    stride, dilation = d.pair(1, 3), d.often(1, 2, (1, 2))
    d_h, d_w = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    H, W = d_h * (R - 1) + d.randint(1, 8), d_w * (S - 1) + d.randint(1, 8)
    padding: Any = d.choice([pads[0][0], tuple(pads[0]), "valid", ((pads[0][0], pads[0][1]), (pads[1][0], pads[1][1]))])
    if stride == 1 and d.random() < 0.3:
        padding = "same"
    N, C, K = d.often(1, 2, 3, 0), groups * per_group, groups * filters
    x = d.tensor((N, C, H, W) if d.random() < 0.93 else (C, H, W), dtype, data)
    scale = 1.0 if data == "integers" or x.data == "integers" else (per_group * R * S) ** -0.5
    args = {"input": x, "weight": d.tensor((K, per_group, R, S), dtype, "normal" if data == "nan" else data, scale)}
    if x.data == "integers":
        args["weight"] = replace(args["weight"], data="integers", scale=1.0)
    if d.random() < 0.6:
        args["bias"] = d.tensor((K,), dtype, x.data)
    args |= {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if d.random() < 0.4:
        args["activation"] = d.choice(ACTIVATIONS)
    if d.random() < 0.3:
        args["residual"] = "output"  # its shape is the output's: filled in by `case`
    return args


def _conv2d_input_grad(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    """The gradient of a convolution that _conv2d draws. Weights are finite: torch multiplies none with the zeros outside."""
    given = _conv2d(d, dtype, "normal" if data in ("nan", "infinite") else data)
    return _gradient(d, given, given["weight"].dtype, data, weight=given["weight"], input_size=_size(given))


def _conv2d_weight_grad(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    given = _conv2d(d, dtype, data)
    args = _gradient(
        d, given, dtype, data, input=replace(given["input"], shape=_size(given)), weight_size=given["weight"].shape
    )
    return args | {"bias_grad": d.random() < 0.5}


def _size(given: dict[str, Any]) -> tuple[int, ...]:
    """A drawn input's shape, with its batch."""
    shape = given["input"].shape
    return shape if len(shape) == 4 else (1, *shape)


def _gradient(d: Draw, given: dict[str, Any], dtype: str, data: str, **operands: Any) -> dict[str, Any]:
    geometry = {name: given[name] for name in ("stride", "padding", "dilation", "groups")}
    kinds = {x.data for x in operands.values() if isinstance(x, T)}
    dy = d.tensor(Conv2dSpec.of(_size(given), given["weight"].shape, **geometry).output_shape, dtype, data)
    if "integers" in kinds or dy.data == "integers":
        dy = replace(dy, data="integers")
        operands = {
            name: replace(x, data="integers", scale=1.0) if isinstance(x, T) else x for name, x in operands.items()
        }
    return {"grad_output": dy, **operands, **geometry}


def _conv_transpose2d(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    groups, per_group, filters = d.often(1, 2, 3), d.choice([1, 2, 3, 16, 17]), d.choice([1, 2, 5, 16])
    R, S = d.often((3, 3), (1, 1), (4, 4), (2, 3), (5, 1))
    stride, dilation = d.pair(1, 3), d.often(1, 2, 3)
    extra = d.randint(0, max(dilation, stride if isinstance(stride, int) else min(stride)) - 1)
    padding = d.choice([0, 1, (0, 1), dilation * (R - 1), d.randint(0, 3)])
    H, W, N, C = d.randint(1, 6), d.randint(1, 6), d.often(1, 2, 3, 0), groups * per_group
    x = d.tensor((N, C, H, W) if d.random() < 0.93 else (C, H, W), dtype, data)
    # A weight that is not finite is multiplied with zeros outside the input, where torch multiplies nothing.
    kind = "normal" if data in ("nan", "infinite") else data
    weight = d.tensor((C, filters, R, S), dtype, kind, 1.0 if data == "integers" else (per_group * R * S) ** -0.5)
    args = {"input": x, "weight": replace(weight, data="integers", scale=1.0) if x.data == "integers" else weight}
    if d.random() < 0.6:
        args["bias"] = d.tensor((groups * filters,), dtype, x.data)
    args |= {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    return args | ({"activation": d.choice(ACTIVATIONS)} if d.random() < 0.4 else {})


def _linear(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    C, K = d.choice([0, 1, 3, 16, 65, 130]), d.choice([1, 2, 10, 33])
    lead = d.often((d.randint(1, 9),), (), (2, 3), (0,), (40,))
    x = d.tensor((*lead, C), dtype, data)
    args = {"input": x, "weight": d.tensor((K, C), dtype, x.data, 1.0 if x.data == "integers" else max(C, 1) ** -0.5)}
    if d.random() < 0.7:
        args["bias"] = d.tensor((K,), dtype, x.data)
    if d.random() < 0.4:
        args["activation"] = d.choice(ACTIVATIONS)
    return args


def _window(d: Draw) -> dict[str, Any]:
    kernel = d.pair(1, 4)
    least = min(kernel) if isinstance(kernel, (tuple, list)) else kernel
    args = {"kernel_size": kernel, "padding": d.randint(0, least // 2), "ceil_mode": d.random() < 0.5}
    if d.random() < 0.7:
        args["stride"] = d.pair(1, 4)
    return args


def _shape(d: Draw) -> tuple[int, ...]:
    N, C, H, W = d.image()
    return (C, H, W) if N == 1 and d.random() < 0.2 else (N, C, H, W)


def _max_pool2d(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    data = d.often(data, "integers", "minus infinity", "nan")
    if d.random() < 0.35:  # windows of which some hold no pixel
        H, W = d.randint(1, 3), d.randint(1, 3)
        window = {"kernel_size": 2, "stride": d.randint(1, 2), "padding": 1, "dilation": d.randint(2, min(H, W) + 1)}
        x = d.tensor((1, 2, H, W), dtype, data)
        return {"input": x, **window, "ceil_mode": True, "return_indices": d.random() < 0.8}
    args = {"input": d.tensor(_shape(d), dtype, data), **_window(d)}
    return args | {"dilation": d.often(1, 2, (2, 1), 3), "return_indices": d.random() < 0.5}


def _avg_pool2d(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    divisor = d.choice([None, None, 1, -2, 7, 2**31 - 1, 2**31, 2**32, 2**32 + 1])
    if divisor and divisor > 7:
        dtype = "float32"  # in which so small a mean is not 0
    args = {"input": d.tensor(_shape(d), dtype, data), **_window(d), "count_include_pad": d.random() < 0.5}
    return args | {"divisor_override": divisor}


def _adaptive_avg_pool2d(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    if d.random() < 0.05:  # p * H passes 2^31
        W = d.choice([46341, 60000, 65536])
        shape = d.choice([(1, 1, 1, W), (1, 1, W, 1)])
        size = d.choice([W + 1, W, W - 1, 50021])
        return {"input": T(shape, dtype, data=data), "output_size": (1, size) if shape[2] == 1 else (size, 1)}
    side = d.choice([d.randint(1, 15), 1, None])
    size = d.choice([1, d.randint(0, 15), (d.randint(1, 15), side), (side, d.randint(1, 15))])
    return {"input": d.tensor(_shape(d), dtype, data), "output_size": size}


def _adaptive_max_pool2d(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    args = _adaptive_avg_pool2d(d, dtype, d.often(data, "integers", "minus infinity", "nan"))
    return args | {"return_indices": d.random() < 0.5}


def _channel_scale(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    N, C, H, W = d.image()
    single = d.random() < 0.1
    x = d.tensor((C, H, W) if single else (N, C, H, W), dtype, data)
    scale = (C, 1, 1) if single else d.often((N, C, 1, 1), (1, C, 1, 1), (C, 1, 1))
    args: dict[str, Any] = {"x": x, "scale": d.tensor(scale, dtype, data, d.often(1.0, 3.0))}
    for name in ("gate", "activation"):
        if d.random() < 0.4:
            args[name] = d.choice(ACTIVATIONS)
    return args | ({"residual": d.tensor(x.shape, dtype, data)} if d.random() < 0.3 else {})


def _any_shape(d: Draw) -> tuple[int, ...]:
    return d.often(d.image(), (), (1,), (37,), (3, 5), (2, 3, 4), (2, 3, 1, 2, 3), (0, 4), (2, 1, 3, 1, 2, 2))


def _residual_add(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    shape = _any_shape(d)
    args: dict[str, Any] = {"x": d.tensor(shape, dtype, data), "shortcut": d.tensor(shape, dtype, data)}
    return args | ({"activation": d.choice(ACTIVATIONS)} if d.random() < 0.5 else {})


def _batch_norm(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    N, C, H, W = d.image()
    shape = d.often((N, C, H, W), (N + 1, C), (N + 1, C, H), (N + 1, C, 2, H, 2))
    args: dict[str, Any] = {"input": d.tensor(shape, dtype, data), "running_mean": d.tensor((C,), dtype)}
    args["running_var"] = d.tensor((C,), dtype, "positive")
    for name in ("weight", "bias"):
        if d.random() < 0.7:
            args[name] = d.tensor((C,), dtype)
    return (
        args | {"eps": d.often(1e-5, 1e-3, 0.5)} | ({"activation": d.choice(ACTIVATIONS)} if d.random() < 0.3 else {})
    )


def _local_response_norm(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    N, C, H, W = d.image()
    beta = d.choice([0.75, 0.75, 0.0, 0.5, 1.0])
    data = d.choice(["infinite", "nan"]) if beta == 0 else data
    x = d.tensor(d.often((N, C, H, W), (N, C, H), (1, C, 2, H, 2)), dtype, data)
    args: dict[str, Any] = {"input": x, "size": d.often(5, 1, 2, 3, 2 * C, 100)}
    return args | {"alpha": d.often(1.0, 1e-4, 30.0), "beta": beta, "k": d.often(1.0, 2.0)}


def _softmax(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    shape = _any_shape(d) or (1,)
    return {"input": d.tensor(shape, dtype, data, d.often(1.0, 20.0)), "dim": d.randrange(-len(shape), len(shape))}


def _activation(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    return {"input": d.tensor(_any_shape(d), dtype, d.often(data, "subnormal", "nan"), d.often(1.0, 3.0))}


def _leaky_relu(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    return {**_activation(d, dtype, data), "negative_slope": d.choice([0.01, 0.2, 0, -1.5])}


def _concat(d: Draw, dtype: str, data: str) -> dict[str, Any]:
    shape = _any_shape(d) or (2,)
    dim = d.randrange(-len(shape), len(shape))
    parts = []
    for _ in range(d.randint(1, 4)):
        sizes = list(shape)
        sizes[dim] = d.choice([0, 1, 2, 3, 8])
        parts.append(d.tensor(tuple(sizes), dtype, d.often(data, "subnormal", "nan")))
    return {"tensors": parts, "dim": dim}


OPS: dict[str, Callable[[Draw, str, str], dict[str, Any]]] = {
    "conv2d": _conv2d,
    "conv2d_input_grad": _conv2d_input_grad,
    "conv2d_weight_grad": _conv2d_weight_grad,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "channel_scale": _channel_scale,
    "residual_add": _residual_add,
    "batch_norm": _batch_norm,
    "local_response_norm": _local_response_norm,
    "softmax": _softmax,
    "relu": _activation,
    "relu6": _activation,
    "concat": _concat,
    "leaky_relu": _leaky_relu,
    **dict.fromkeys(("sigmoid", "hardsigmoid", "silu", "hardswish"), _activation),
}

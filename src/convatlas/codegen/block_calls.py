"""Blocks of several layers as calls, for the inventory of launches and for whoever measures one without a network around it."""

from __future__ import annotations

from collections.abc import Sequence

from convatlas.call import Call
from convatlas.specs import BlockSpec, Conv2dSpec, Epilogue, Part, Pool2dSpec

RELU, ADDED = Epilogue(True, "relu"), Epilogue(True, "relu", True)


def bottleneck(
    shape: tuple[int, int, int, int], middle: int, filters: int, downsample: bool = False, dtype: str = "float16"
) -> Call:
    """1x1 to `middle` channels, 3x3, 1x1 to `filters`, plus the input of `shape` or, with `downsample`, plus a 1x1 of it."""
    N, C, H, W = shape
    inner, source = (N, middle, H, W), "downsample" if downsample else "input"
    parts = [
        Part("reduce", "conv2d", Conv2dSpec.of(shape, (middle, C, 1, 1)), RELU),
        Part("window", "conv2d", Conv2dSpec.of(inner, (middle, middle, 3, 3), 1, 1), RELU, (("input", "reduce"),)),
        Part(
            "expand", "conv2d", Conv2dSpec.of(inner, (filters, middle, 1, 1)), ADDED,
            (("input", "window"), ("residual", source)),
        ),
    ]  # fmt: skip
    if downsample:
        parts.insert(2, Part("downsample", "conv2d", Conv2dSpec.of(shape, (filters, C, 1, 1)), Epilogue(True)))
    return Call("block", BlockSpec.of("bottleneck", tuple(parts), dtype), dtype=dtype)


def basic_block(shape: tuple[int, int, int, int], dtype: str = "float16") -> Call:
    """3x3 and 3x3 on the channels of the input, which is added."""
    C = shape[1]
    spec = Conv2dSpec.of(shape, (C, C, 3, 3), 1, 1)
    second = Part("second", "conv2d", spec, ADDED, (("input", "first"), ("residual", "input")))
    return Call("block", BlockSpec.of("basic_block", (Part("first", "conv2d", spec, RELU), second), dtype), dtype=dtype)


def inverted_residual(
    shape: tuple[int, int, int, int],
    inner: int,
    filters: int,
    window: int = 3,
    stride: int = 1,
    residual: bool = False,
    activation: str = "relu6",
    dtype: str = "float16",
) -> Call:
    """1x1 to `inner` channels, a depthwise convolution, 1x1 to `filters`, plus the input where asked for."""
    N, _, H, W = shape
    expand = Part("expand", "conv2d", Conv2dSpec.of(shape, (inner, shape[1], 1, 1)), Epilogue(True, activation))
    rest = _separable((N, inner, H, W), filters, window, stride, activation, None, "expand", residual)
    return Call("block", BlockSpec.of("inverted_residual", (expand, *rest), dtype), dtype=dtype)


def depthwise_separable(
    shape: tuple[int, int, int, int],
    filters: int,
    window: int = 3,
    stride: int = 1,
    activation: str = "relu",
    last: str | None = "relu",
    dtype: str = "float16",
) -> Call:
    """A depthwise convolution and 1x1 to `filters`, with an activation behind each."""
    parts = _separable(shape, filters, window, stride, activation, last, "input", False)
    return Call("block", BlockSpec.of("depthwise_separable", parts, dtype), dtype=dtype)


def _separable(
    shape: tuple, filters: int, window: int, stride: int, activation: str, last: str | None, source: str, residual: bool
) -> tuple[Part, Part]:
    C = shape[1]
    depthwise = Conv2dSpec.of(shape, (C, 1, window, window), stride, window // 2, 1, C)
    project = Conv2dSpec.of(depthwise.output_shape, (filters, C, 1, 1))
    reads = (("input", "depthwise"), *([("residual", "input")] if residual else []))
    return (
        Part("depthwise", "conv2d", depthwise, Epilogue(True, activation), (("input", source),)),
        Part("project", "conv2d", project, Epilogue(True, last, residual), reads),
    )


def persistent(
    shape: tuple[int, int, int, int], blocks: Sequence[tuple[int, int, int]], dtype: str = "float16"
) -> Call:
    """Bottlenecks one after another, each (middle channels, filters, stride of the 3x3), as one run of layers.

    The input of a block is added to its result, or a 1x1 of it where the shapes differ.
    """
    parts: list[Part] = []
    source = "input"

    def layer(
        read: str, given: tuple, filters: int, window: int, stride: int, epilogue: Epilogue, **more: str
    ) -> tuple:
        spec = Conv2dSpec.of(given, (filters, given[1], window, window), stride, window // 2)
        reads = (("input", read), *more.items())
        parts.append(Part(f"layer{len(parts)}", "conv2d", spec, epilogue, reads))
        return parts[-1].name, spec.output_shape

    for middle, filters, stride in blocks:
        added = source
        if stride > 1 or shape[1] != filters:
            added, _ = layer(source, shape, filters, 1, stride, Epilogue(True))
        name, inner = layer(source, shape, middle, 1, 1, RELU)
        name, inner = layer(name, inner, middle, 3, stride, RELU)
        source, shape = layer(name, inner, filters, 1, 1, ADDED, residual=added)
    return Call("block", BlockSpec.of("persistent", tuple(parts), dtype), dtype=dtype)


# ResNet-50's third and fourth stage.
LATE = ((256, 1024, 2), *[(256, 1024, 1)] * 5, (512, 2048, 2), *[(512, 2048, 1)] * 2)

# (C, inner, filters, size, window, stride, shortcut) of the blocks of MobileNetV2 and EfficientNet-Lite0 that the kernel takes.
INVERTED = (
    (16, 96, 24, 112, 3, 2, False), (24, 144, 24, 56, 3, 1, True), (24, 144, 32, 56, 3, 2, False), (32, 192, 32, 28, 3, 1, True),
    (32, 192, 64, 28, 3, 2, False), (64, 384, 64, 14, 3, 1, True), (64, 384, 96, 14, 3, 1, False), (96, 576, 96, 14, 3, 1, True),
    (160, 960, 160, 7, 3, 1, True),
    (24, 144, 40, 56, 5, 2, False), (40, 240, 40, 28, 5, 1, True), (40, 240, 80, 28, 3, 2, False), (80, 480, 80, 14, 3, 1, True),
    (80, 480, 112, 14, 5, 1, False), (112, 672, 112, 14, 5, 1, True),
)  # fmt: skip
# (C, filters, size, stride) of MobileNetV1.
SEPARABLE = ((32, 64, 112, 1), (64, 128, 112, 2), (128, 128, 56, 1))


def stem_pool(
    shape: tuple[int, int, int, int],
    filters: int,
    window: int = 7,
    padding: int = 3,
    pool_padding: int = 1,
    ceil_mode: bool = False,
    activation: str | None = "relu",
    dtype: str = "float16",
) -> Call:
    """A convolution of stride 2 of an image's few channels, and 3x3 max pooling of stride 2."""
    conv = Conv2dSpec.of(shape, (filters, shape[1], window, window), 2, padding)
    pool = Pool2dSpec.of("max", conv.output_shape, 3, 2, pool_padding, 1, ceil_mode)
    parts = (
        Part("conv", "conv2d", conv, Epilogue(True, activation)),
        Part("pool", "max_pool2d", pool, None, (("input", "conv"),)),
    )
    return Call("block", BlockSpec.of("stem_pool", parts, dtype), dtype=dtype)


def pool_pointwise(
    shape: tuple[int, int, int, int], filters: int, activation: str | None = "relu", dtype: str = "float16"
) -> Call:
    """3x3 max pooling of stride 1, and a 1x1 convolution to `filters`."""
    pool = Pool2dSpec.of("max", shape, 3, 1, 1)
    conv = Conv2dSpec.of(shape, (filters, shape[1], 1, 1))
    parts = (
        Part("pool", "max_pool2d", pool),
        Part("conv", "conv2d", conv, Epilogue(True, activation), (("input", "pool"),)),
    )
    return Call("block", BlockSpec.of("pool_pointwise", parts, dtype), dtype=dtype)


def small_block_calls(dtype: str) -> list[Call]:
    """For every pattern small calls of several tiles, of which some reach over an edge, in half precision."""
    if dtype == "float32":
        return []
    return [
        bottleneck((2, 256, 29, 15), 64, 256, False, dtype),
        bottleneck((2, 64, 29, 15), 64, 256, True, dtype),
        bottleneck((2, 512, 9, 17), 128, 512, False, dtype),
        basic_block((2, 64, 29, 15), dtype),
        inverted_residual((2, 24, 29, 19), 144, 24, 3, 1, True, dtype=dtype),
        inverted_residual((2, 40, 29, 19), 240, 80, 5, 2, dtype=dtype),
        depthwise_separable((2, 32, 29, 19), 64, 3, 1, dtype=dtype),
        stem_pool((2, 3, 63, 45), 64, dtype=dtype),
        pool_pointwise((2, 200, 11, 19), 96, None, dtype),
        persistent((2, 64, 29, 17), [(64, 128, 2), (64, 128, 1)], dtype),
    ]


def block_calls(dtype: str) -> list[Call]:
    """One call for every kernel and tile of a block that a network gets, in half precision; none in float32."""
    if dtype == "float32":
        return []
    return [persistent((1, 512, 28, 28), LATE, dtype)] + [
        call
        for N in (1, 2, 32)
        for call in (
            bottleneck((N, 64, 56, 56), 64, 256, True, dtype),
            bottleneck((N, 256, 56, 56), 64, 256, False, dtype),
            bottleneck((N, 512, 28, 28), 128, 512, False, dtype),
            basic_block((N, 64, 56, 56), dtype),
            *(inverted_residual((N, C, n, n), E, K, R, U, add, dtype=dtype) for C, E, K, n, R, U, add in INVERTED),
            *(depthwise_separable((N, C, n, n), K, 3, U, dtype=dtype) for C, K, n, U in SEPARABLE),
            depthwise_separable((N, 32, 112, 112), 16, 3, 1, "relu6", None, dtype),
            pool_pointwise((N, 480, 14, 14), 64, dtype=dtype),
            stem_pool((N, 3, 224, 224), 64, dtype=dtype),
            stem_pool((N, 3, 224, 224), 64, 3, 0, 0, True, dtype=dtype),
        )
    ]

"""Blocks of several layers as calls, for the inventory of launches and for whoever measures one without a network around it."""

from __future__ import annotations

from convatlas.call import Call
from convatlas.specs import BlockSpec, Conv2dSpec, Epilogue, Part

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


def block_calls(dtype: str) -> list[Call]:
    """One call for every kernel and tile of a block that a network gets, in half precision; none in float32."""
    if dtype == "float32":
        return []
    return [
        call
        for N in (1, 2, 32)
        for call in (
            bottleneck((N, 64, 56, 56), 64, 256, True, dtype),
            bottleneck((N, 256, 56, 56), 64, 256, False, dtype),
            bottleneck((N, 512, 28, 28), 128, 512, False, dtype),
            basic_block((N, 64, 56, 56), dtype),
        )
    ]

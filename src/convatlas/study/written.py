"""A layer as a user writes it, as the specs print it: "conv 32x64x56x56 64 3x3 s1 p1", "linear 32x2048 1000"."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from convatlas.call import Call
from convatlas.errors import ArgumentError
from convatlas.names import spelled
from convatlas.specs import (
    AdaptivePool2dSpec,
    Conv2dSpec,
    ConvTranspose2dSpec,
    ElementwiseSpec,
    Epilogue,
    LinearSpec,
    Pool2dSpec,
    ResidualAddSpec,
)
from convatlas.specs.activations import FLOPS
from convatlas.study.layer import Layer

EXAMPLES = {
    "conv": "conv 32x64x56x56 64 3x3 s1 p1 bias relu",
    "conv_transpose": "conv_transpose 32x512x4x4 256 4x4 s2 p1 bias relu",
    "linear": "linear 32x2048 1000 bias",
    "max_pool": "max_pool 32x64x112x112 3x3 s2 p1",
    "avg_pool": "avg_pool 32x64x56x56 2x2 s2",
    "global_pool": "global_pool 32x2048x7x7",
    "residual_add": "residual_add 32x256x56x56 relu",
    "relu": "relu 32x64x56x56",
}
# Short options with a number or two: s2, p1, d1, g32; s2x1.
OPTION = re.compile(r"([spdg])(\d+)(?:x(\d+))?")
FUSED = ("bias", "residual", *FLOPS)


def is_layer(text: str) -> bool:
    """Whether a command's argument is a layer: a word, then sizes."""
    words = text.split()
    return len(words) > 1 and re.fullmatch(r"\d+(x\d+)+", words[1]) is not None


def layer(text: str) -> Layer:
    """The layer. Options: s stride, p padding, d dilation, g groups; bias, residual, relu, silu, ... are fused.

    Raises NetError, with the nearest names, for an unknown op, ArgumentError for a word that it does not know, ShapeError for sizes
    that do not fit together.
    """
    op, *words = text.split()
    op = spelled(op, EXAMPLES, "layer", f"such as {EXAMPLES['conv']!r}; known are {', '.join(EXAMPLES)}")
    sizes, options, fused = [], {}, set()
    for word in words:
        found = OPTION.fullmatch(word)
        if found:
            first, second = int(found[2]), found[3]
            options[found[1]] = first if second is None else (first, int(second))
        elif re.fullmatch(r"\d+(x\d+)*", word):
            sizes.append(tuple(map(int, word.split("x"))))
        elif word in FUSED:
            fused.add(word)
        else:
            raise ArgumentError(f"layer {text!r}: {word!r}, expected one like {EXAMPLES[op]!r}")
    activation = next((name for name in reversed(FLOPS) if name in fused), None)
    epilogue = Epilogue("bias" in fused, activation, "residual" in fused)
    try:
        return Layer(text, Call(*MAKERS[op](sizes, options, epilogue)))
    except (IndexError, ValueError) as error:
        if isinstance(error, ArgumentError) or not isinstance(error, IndexError):
            raise
        raise ArgumentError(f"layer {text!r}: sizes are missing, expected one like {EXAMPLES[op]!r}") from None


def _conv(sizes: list, options: dict, epilogue: Epilogue, transposed: bool = False) -> tuple[Any, ...]:
    groups = options.get("g", 1)
    shape, (filters,), window = sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else (1, 1)
    window = window if len(window) == 2 else window * 2
    channels = shape[1] // groups if len(shape) > 1 and shape[1] % groups == 0 else 0
    if not channels:
        raise ArgumentError(
            f"conv: {shape} with {groups} groups, expected N x C x H x W with C a multiple of the groups"
        )
    if transposed:
        if filters % groups:
            raise ArgumentError(
                f"conv_transpose: {filters} filters in {groups} groups, expected a multiple of the groups"
            )
        given = (
            (shape[1], filters // groups, *window),
            options.get("s", 1),
            options.get("p", 0),
            0,
            groups,
            options.get("d", 1),
        )
        return "conv_transpose2d", ConvTranspose2dSpec.of(shape, *given), epilogue
    spec = Conv2dSpec.of(
        shape, (filters, channels, *window), options.get("s", 1), options.get("p", 0), options.get("d", 1), groups
    )
    return "conv2d", spec, epilogue


def _linear(sizes: list, options: dict, epilogue: Epilogue) -> tuple[Any, ...]:
    return "linear", LinearSpec.of(sizes[0], (sizes[1][0], sizes[0][-1])), epilogue


def _pool(kind: str) -> Callable[[list, dict, Epilogue], tuple[Any, ...]]:
    def made(sizes: list, options: dict, epilogue: Epilogue) -> tuple[Any, ...]:
        spec = Pool2dSpec.of(kind, sizes[0], sizes[1], options.get("s"), options.get("p", 0), options.get("d", 1))
        return f"{kind}_pool2d", spec

    return made


MAKERS: dict[str, Callable[[list, dict, Epilogue], tuple[Any, ...]]] = {
    "conv": _conv,
    "conv_transpose": lambda sizes, options, epilogue: _conv(sizes, options, epilogue, True),
    "linear": _linear,
    "max_pool": _pool("max"),
    "avg_pool": _pool("avg"),
    "global_pool": lambda sizes, options, epilogue: ("adaptive_avg_pool2d", AdaptivePool2dSpec.of(sizes[0], 1)),
    "residual_add": lambda sizes, options, epilogue: ("residual_add", ResidualAddSpec.of(sizes[0], sizes[0]), epilogue),
    "relu": lambda sizes, options, epilogue: ("relu", ElementwiseSpec("relu", sizes[0])),
}

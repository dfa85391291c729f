"""Kinds of layers, by which suites are chosen and results are summed up; and a layer's spec as data, as the store holds it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import cache
from typing import Any

from convatlas.errors import InputError
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    Conv2dInputGradSpec,
    Conv2dSpec,
    Conv2dWeightGradSpec,
    ConvTranspose2dSpec,
    LinearSpec,
    Pool2dSpec,
    ResidualAddSpec,
    Spec,
)

KINDS = (
    "3x3 dense", "other dense", "1x1", "depthwise", "grouped", "stem", "linear", "pooling", "residual add", "channel scale",
    "other", "transposed", "dgrad", "wgrad", "network",
)  # fmt: skip
SPECS: dict[str, type[Spec]] = {
    "conv2d": Conv2dSpec,
    "conv2d_input_grad": Conv2dInputGradSpec,
    "conv2d_weight_grad": Conv2dWeightGradSpec,
    "conv_transpose2d": ConvTranspose2dSpec,
    "linear": LinearSpec,
    "max_pool2d": Pool2dSpec,
    "avg_pool2d": Pool2dSpec,
    "adaptive_avg_pool2d": AdaptivePool2dSpec,
    "adaptive_max_pool2d": AdaptivePool2dSpec,
    "channel_scale": ChannelScaleSpec,
    "residual_add": ResidualAddSpec,
}


def sizes_of(spec: Spec) -> dict[str, Any]:
    """The spec's fields, as they come back from JSON: with lists for tuples."""
    return json.loads(json.dumps(asdict(spec)))


@cache
def _adapter(kind: type[Spec]) -> Any:
    from pydantic import TypeAdapter  # where results are written it may not be installed

    return TypeAdapter(kind)


def spec_of(op: str, sizes: dict[str, Any]) -> Spec | None:
    """The spec whose fields `sizes_of` gave; None for an op that no rule looks at the sizes of.

    Raises InputError for fields that are not those of the op's spec, and sizes that give no output.
    """
    if op not in SPECS:
        return None
    try:
        spec = _adapter(SPECS[op]).validate_python(sizes)
        known = {field.name for field in fields(spec)}
        if sizes.keys() <= known and min(spec.output_shape) >= 1 and 0 <= spec.flops < 2**63:
            return spec
    except (ValueError, ArithmeticError):
        pass
    given = ", ".join(f"{name} {str(value)[:20]}" for name, value in list(sizes.items())[:14])
    raise InputError(f"{op}: sizes {given}, expected the fields of a {SPECS[op].__name__} that has an output")

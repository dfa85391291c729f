"""An image whose channels are scaled, as squeeze and excitation does it."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.reference.activation import activate
from convatlas.specs import ChannelScaleSpec


def channel_scale(
    x: np.ndarray,
    scale: np.ndarray,
    *,
    gate: Any = None,
    activation: Any = None,
    residual: np.ndarray | None = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """y = activation(x * gate(scale) + residual), x (N, C, H, W), scale (N, C, 1, 1), (1, C, 1, 1) or (C, 1, 1).

    Source: Hu, Shen, Sun 2017 (arXiv 1709.01507), equation 4; its gate is the sigmoid of equation 3.
    Raises ShapeError, ArgumentError.
    """
    x, scale = np.asarray(x, dtype), np.asarray(scale, dtype)
    spec = ChannelScaleSpec.of(x.shape, scale.shape, gate)
    with np.errstate(invalid="ignore", over="ignore"):
        y = scaled(x, scale, spec)
        return activate(y if residual is None else y + np.asarray(residual, dtype), activation)


def scaled(x: np.ndarray, scale: np.ndarray, spec: ChannelScaleSpec) -> np.ndarray:
    """The product, for arguments that were checked."""
    return x * activate(scale, spec.gate)

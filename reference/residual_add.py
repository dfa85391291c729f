"""The shortcut addition of residual networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.reference.activation import activate
from convatlas.specs import ResidualAddSpec


def residual_add(
    x: np.ndarray, shortcut: np.ndarray, *, activation: str | None = None, dtype: Any = np.float64
) -> np.ndarray:
    """y = activation(x + shortcut), both of one shape (He et al. 2015, equation 1 and figure 2).

    Raises ShapeError when the shapes differ: a residual connection does not broadcast.
    """
    x, shortcut = np.asarray(x, dtype), np.asarray(shortcut, dtype)
    ResidualAddSpec.of(x.shape, shortcut.shape)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, as it should be
        return activate(x + shortcut, activation)

"""Concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convatlas.specs import ConcatSpec


def concat(tensors: Sequence[np.ndarray], dim: int = 1, *, dtype: Any = np.float64) -> np.ndarray:
    """The tensors side by side along `dim`, channels unless told otherwise, as torch.cat.

    Raises ShapeError for an empty list, a dim out of range, or shapes that differ elsewhere than on `dim`. (torch.cat
    skips tensors of shape (0,), for historical reasons; this does not.)
    """
    tensors = [np.asarray(t, dtype) for t in tensors]
    spec = ConcatSpec.of([t.shape for t in tensors], dim)
    return np.concatenate(tensors, axis=spec.dim)

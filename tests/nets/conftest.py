"""Nets are held to their definitions at 1e-4 in float32: on a GPU that is IEEE float32, not TF32, which torch allows by default."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def ieee() -> Iterator[None]:
    """No TF32 in convolutions (matrix products have none unless asked)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before

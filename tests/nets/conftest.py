"""Nets are held to their definitions at 1e-4 in float32: on a GPU that is IEEE float32, not TF32, which torch allows by default."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def ieee(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TF32 in convolutions (matrix products have none unless asked)."""
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")

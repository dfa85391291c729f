"""Which multiplications may use TF32: torch's own settings, the matmul one for linear and the convolution one for convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from convatlas.call import Call


def may_be_tf32(op: str) -> bool:
    """Whether torch's setting for an op of products lets those of float32 round their operands to TF32."""
    # What torch.backends.cuda.matmul.fp32_precision and torch.backends.cudnn.conv.fp32_precision ask, at an eighth of their cost.
    return torch._C._get_fp32_precision_getter("cuda", "matmul" if op == "linear" else "conv") == "tf32"


def tf32(call: Call) -> bool:
    """Whether the call's products may round their operands to TF32."""
    return call.dtype == "float32" and call.spec.products and may_be_tf32(call.op)


@contextmanager
def restored(*settings: Any) -> Iterator[None]:
    """Inside the block the precision of torch's `settings` may be changed; behind it each is as before."""
    before = [setting.fp32_precision for setting in settings]
    try:
        yield
    finally:
        for setting, value in zip(settings, before):
            setting.fp32_precision = value


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Convolutions and matrix products of float32 inside the block are "tf32" or "ieee".

    cuDNN's recurrent layers are set along: where they differ, torch refuses to answer code that asks by its older names.
    """
    settings = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    with restored(*settings):
        for setting in settings:
            setting.fp32_precision = precision
        yield

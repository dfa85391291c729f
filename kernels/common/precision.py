"""Which multiplications may use TF32: torch's own settings, the matmul one for linear and the convolution one for convolutions."""

from __future__ import annotations

import torch

from convatlas.call import Call


def may_be_tf32(op: str) -> bool:
    """Whether torch's setting for an op of products lets those of float32 round their operands to TF32."""
    setting = torch.backends.cuda.matmul if op == "linear" else torch.backends.cudnn.conv
    return setting.fp32_precision == "tf32"


def tf32(call: Call) -> bool:
    """Whether the call's products may round their operands to TF32."""
    return call.dtype == "float32" and call.spec.products and may_be_tf32(call.op)

"""Which multiplications may use TF32: torch's own settings, the convolution one for conv2d and the matmul one for linear."""

from __future__ import annotations

import torch

from convatlas.ops.observe import Call


def conv_tf32(call: Call) -> bool:
    """torch.backends.cudnn.conv.fp32_precision (which torch.backends.cudnn.allow_tf32 sets), as F.conv2d obeys it."""
    return call.dtype == "float32" and torch.backends.cudnn.conv.fp32_precision == "tf32"


def matmul_tf32(call: Call) -> bool:
    """torch.backends.cuda.matmul.fp32_precision (which allow_tf32 sets), as F.linear obeys it."""
    return call.dtype == "float32" and torch.backends.cuda.matmul.fp32_precision == "tf32"

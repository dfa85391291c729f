"""Which multiplications may use TF32: torch's own settings, the convolution one for conv2d and the matmul one for linear."""

from __future__ import annotations

import torch

from convatlas.call import Call

# What torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32 set, by the op that obeys it as torch's own does.
SETTINGS = {"conv2d": torch.backends.cudnn.conv, "linear": torch.backends.cuda.matmul}


def tf32(call: Call) -> bool:
    """Whether torch's setting for the call's op lets float32 products round their operands to TF32."""
    return call.dtype == "float32" and call.op in SETTINGS and SETTINGS[call.op].fp32_precision == "tf32"

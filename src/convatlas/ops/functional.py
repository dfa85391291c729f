"""The public ops: names and arguments of torch.nn.functional, computed by our kernels.

Every op takes `backend=` ("triton", "cuda", "cudnn", "numpy"; default: use_backend, CONVATLAS_BACKEND, then by device) and
`out=`, a tensor of the output's shape that may be a channel slice of a wider channels_last buffer, so that a concatenation costs
nothing. Outputs come in the memory format of the input. Raises ShapeError, DtypeError, BackendError,
or ArgumentError where an argument is no number, flag or known activation and one is needed.
"""

from convatlas.ops.convolutions import conv2d, conv_transpose2d, linear
from convatlas.ops.elementwise import (
    channel_scale,
    concat,
    hardsigmoid,
    hardswish,
    leaky_relu,
    relu,
    relu6,
    residual_add,
    sigmoid,
    silu,
)
from convatlas.ops.gradients import conv2d_input_grad, conv2d_weight_grad
from convatlas.ops.losses import cross_entropy
from convatlas.ops.norms import batch_norm, local_response_norm, softmax
from convatlas.ops.pooling import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm",
    "channel_scale",
    "concat",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "conv_transpose2d",
    "cross_entropy",
    "hardsigmoid",
    "hardswish",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "max_pool2d",
    "relu",
    "relu6",
    "residual_add",
    "sigmoid",
    "silu",
    "softmax",
]

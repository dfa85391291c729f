"""The NumPy reference that every kernel is held to: one file an op, in float64 unless told otherwise, without a GPU or torch.

The functions take NumPy arrays, NCHW, and the arguments of torch.nn.functional. `evaluate` takes any op by its name and
spec; `truth` does so in float64 and adds what the op's error bound needs; `check` holds a kernel's output to that bound,
which docs/numerics.md derives.
"""

if __name__ != "convatlas.reference":
    raise ImportError(
        f"this folder was imported as {__name__!r}, which would make a second copy of it: "
        "import convatlas.reference instead (pip install -e . in the repository's root)"
    )

# Plain imports, not lazy ones: they run after the submodules of the same names are loaded, so that the functions win.
from convatlas.reference.activation import hardsigmoid, hardswish, leaky_relu, relu, relu6, sigmoid, silu, softmax
from convatlas.reference.block import block_truth
from convatlas.reference.channel_scale import channel_scale
from convatlas.reference.concat import concat
from convatlas.reference.conv2d import conv2d
from convatlas.reference.conv2d_grad import conv2d_input_grad, conv2d_weight_grad
from convatlas.reference.conv2d_plain import conv2d_plain
from convatlas.reference.conv_transpose2d import conv_transpose2d, conv_transpose2d_plain
from convatlas.reference.error_bound import Report, check
from convatlas.reference.evaluate import evaluate
from convatlas.reference.linear import linear
from convatlas.reference.norm import batch_norm, local_response_norm
from convatlas.reference.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from convatlas.reference.residual_add import residual_add
from convatlas.reference.rounding import round_to
from convatlas.reference.truth import Truth, truth

__all__ = [
    "Report",
    "Truth",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm",
    "block_truth",
    "channel_scale",
    "check",
    "concat",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_plain",
    "conv2d_weight_grad",
    "conv_transpose2d",
    "conv_transpose2d_plain",
    "evaluate",
    "hardsigmoid",
    "hardswish",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "max_pool2d",
    "relu",
    "relu6",
    "residual_add",
    "round_to",
    "sigmoid",
    "silu",
    "softmax",
    "truth",
]

"""convatlas: an atlas of convolutional networks on GPU hardware.

The public ops (`convatlas.conv2d`, `max_pool2d`, ...) take torch tensors and the arguments of torch.nn.functional. Everything
is imported when first used, so that `import convatlas` needs neither torch nor a GPU.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from convatlas.errors import (
    ArgumentError,
    BackendError,
    CheckError,
    ConvAtlasError,
    DtypeError,
    InputError,
    NetError,
    ShapeError,
)

__version__ = "0.1.0"

_LAZY = {
    **dict.fromkeys(
        (
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
        ),
        "convatlas.ops.functional",
    ),
    "Plan": "convatlas.plan.plan",
    "checking": "convatlas.verify.check",
    "compile": "convatlas.plan.plan",
    "load_plan": "convatlas.plan.plan",
    "use_backend": "convatlas.ops.backends",
}
_SUBMODULES = ("codegen", "kernels", "nets", "ops", "plan", "reference", "specs", "study", "verify")

__all__ = [
    "ArgumentError",
    "BackendError",
    "CheckError",
    "ConvAtlasError",
    "DtypeError",
    "InputError",
    "NetError",
    "ShapeError",
    "__version__",
    *_LAZY,
    *_SUBMODULES,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return import_module(f"convatlas.{name}")
    raise AttributeError(f"module 'convatlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Backend "triton": from a Call to the launches of its kernels, and their execution."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from convatlas.kernels.common.launch import Launch, execute
from convatlas.kernels.common.target import Target, current
from convatlas.kernels.conv2d import launch_triton as conv2d
from convatlas.kernels.elementwise import launch_triton as elementwise
from convatlas.kernels.gemm import launch_triton as gemm
from convatlas.kernels.norm import launch_triton as norm
from convatlas.kernels.pool import launch_triton as pool
from convatlas.kernels.softmax import launch_triton as softmax
from convatlas.ops.observe import Call

LAUNCHERS: dict[str, Callable[[Call, dict[str, Tensor], Tensor, Target], list[Launch]]] = {
    "conv2d": conv2d.launches,
    "linear": gemm.linear_launches,
    "max_pool2d": pool.max_launches,
    "avg_pool2d": pool.avg_launches,
    "adaptive_avg_pool2d": pool.adaptive_launches,
    "residual_add": elementwise.residual_launches,
    "batch_norm": norm.batch_norm_launches,
    "local_response_norm": norm.local_response_norm_launches,
    "softmax": softmax.launches,
    "relu": elementwise.activation_launches,
    "relu6": elementwise.activation_launches,
    "concat": elementwise.concat_launches,
}


def run(call: Call, tensors: dict[str, Tensor], out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `call` on the tensors' GPU, or in the interpreter."""
    return execute(call, tensors, out, LAUNCHERS, current(next(iter(tensors.values()))))

"""Backend "cuda": from a Call to the launches of its kernels, and their execution."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.launch import execute
from convatlas.kernels.common.target import TARGETS, Target, of_device
from convatlas.kernels.elementwise import launch_cuda as elementwise
from convatlas.kernels.gemm import launch_cuda as dense
from convatlas.kernels.norm import launch_cuda as norm
from convatlas.kernels.pool import launch_cuda as pool

if TYPE_CHECKING:
    from convatlas.ops.observe import Call

LAUNCHERS: dict[str, Callable[[Call, dict[str, Tensor], Tensor, Target], list[CudaLaunch]]] = {
    "conv2d": dense.conv_launches,
    "linear": dense.linear_launches,
    "max_pool2d": pool.max_launches,
    "avg_pool2d": pool.avg_launches,
    "adaptive_avg_pool2d": pool.adaptive_launches,
    "residual_add": elementwise.residual_launches,
    "batch_norm": norm.batch_norm_launches,
    "local_response_norm": norm.local_response_norm_launches,
    "softmax": norm.softmax_launches,
    "relu": elementwise.activation_launches,
    "relu6": elementwise.activation_launches,
    "concat": elementwise.concat_launches,
}


def current(x: Tensor) -> Target:
    """The target that launches are chosen for: the tensor's GPU; on a CPU an H100, whose very launches the host build runs."""
    return of_device(x.device.index) if x.is_cuda else TARGETS["sm_90"]


def run(call: Call, tensors: dict[str, Tensor], out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `call` on the tensors' GPU, or by the host build on a CPU."""
    return execute(call, tensors, out, LAUNCHERS, current(next(iter(tensors.values()))))

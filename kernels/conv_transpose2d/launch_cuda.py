"""Launchers of the transposed convolution, conv2d's once a phase, and of the input gradient, which is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.conv2d.launch_cuda import conv2d
from convatlas.kernels.conv_transpose2d.phases import by_phases
from convatlas.kernels.elementwise.launch_cuda import elementwise

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem


def conv_transpose2d(p: Problem) -> list[CudaLaunch]:
    """The launches of every phase, with the epilogue."""
    return by_phases(p, conv2d, lambda p, x: [elementwise(x, None, p.out, p.activation)])


def conv2d_input_grad(p: Problem) -> list[CudaLaunch]:
    """The gradient of a convolution by its input: the transposed convolution of its output's gradient."""
    return conv_transpose2d(p.seen_as(p.spec, p.out, input=p["grad_output"], grad_output=None))

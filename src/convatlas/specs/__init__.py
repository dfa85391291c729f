"""Specs: the one place for shape arithmetic.

One frozen dataclass an op. Built from shapes and parameters, it validates (ShapeError, both sides shown) and derives the
output shape, MACs, FLOPs, compulsory bytes and GEMM sizes. Kernels, reference, networks, benchmarks and tests take their
numbers from here.
"""

from convatlas.specs.block import INPUT, BlockSpec, Part
from convatlas.specs.common import Epilogue, Spec, dtype_name, itemsize, tf_same_padding
from convatlas.specs.conv import Conv2dSpec
from convatlas.specs.conv_grad import Conv2dInputGradSpec, Conv2dWeightGradSpec
from convatlas.specs.conv_transpose import ConvTranspose2dSpec
from convatlas.specs.grad import GradSpec
from convatlas.specs.other import (
    ChannelScaleSpec,
    ConcatSpec,
    ElementwiseSpec,
    LinearSpec,
    LocalResponseNormSpec,
    NormSpec,
    ResidualAddSpec,
)
from convatlas.specs.pool import AdaptivePool2dSpec, Pool2dSpec

__all__ = [
    "INPUT",
    "AdaptivePool2dSpec",
    "BlockSpec",
    "ChannelScaleSpec",
    "ConcatSpec",
    "Conv2dInputGradSpec",
    "Conv2dSpec",
    "Conv2dWeightGradSpec",
    "ConvTranspose2dSpec",
    "ElementwiseSpec",
    "Epilogue",
    "GradSpec",
    "LinearSpec",
    "LocalResponseNormSpec",
    "NormSpec",
    "Part",
    "Pool2dSpec",
    "ResidualAddSpec",
    "Spec",
    "dtype_name",
    "itemsize",
    "tf_same_padding",
]

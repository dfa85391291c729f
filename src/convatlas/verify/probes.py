"""Operands on which a fault must show: on these numbers an op that is skipped, or that rounds wrongly, gives another result.

docs/numerics.md ("Operands on which a fault shows") derives the numbers that stand here.
"""

from __future__ import annotations

from math import isqrt, prod, sqrt

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.study.tracing import Layer
from convatlas.verify.single import Tensors, operands

# Sums of products are whole multiples of UNIT, with a standard deviation of SIGMA units, which is 4.
UNIT = 2.0**-11
SIGMA = 2**13
# The largest sum, of all absolute values, in units: half of what float32 counts exactly, the rest is for bias and residual.
LARGEST = 2**23
# bfloat16 counts to 256; bias and residual are multiples of 16 units, of up to 2 in size.
WHOLE, STEP = 255, 16 * UNIT
# Products of one output of a block's part that are not zero.
TERMS = 6
# A local response norm's base is k + k/8 on average, and the op then beta/8 away from the identity.
RAISED = 1 / 8
# Terms of a mean or of a softmax that matter, and how many outputs each place of the window should matter to.
FEW, OFTEN = 4, 8
# How far below the terms that matter the others of a softmax are: e^-10 of them.
BELOW = 10.0


def largest_integer(length: int) -> int:
    """B, such that sums of `length` products of integers in [-B, B] deviate by SIGMA, and all |products| sum to LARGEST at most."""
    return max(1, min(WHOLE, round(sqrt(3 * SIGMA / sqrt(max(length, 1)))), isqrt(LARGEST // max(length, 1))))


def integers(shape: tuple[int, ...], largest: int, unit: float, generator: torch.Generator) -> Tensor:
    """Uniform whole multiples of `unit`, up to `largest` of them in size, in float32."""
    return torch.randint(-largest, largest + 1, shape, generator=generator).float() * unit


def rounds_once(call: Call) -> bool:
    """Whether the call's result on probes must be the truth rounded once: it must for ours, not for a library's algorithms."""
    return call.spec.products and call.backend != "cudnn"


def probes(layer: Layer, dtype: torch.dtype, device: torch.device, seed: int) -> Tensors:
    """Operands of the layer's shapes, under the names and in the memory format of convatlas.verify.single.operands."""
    generator = torch.Generator().manual_seed(seed)
    tensors = operands(layer, dtype, torch.device("cpu"), seed)
    spec, params = layer.spec, layer.params
    capped = layer.epilogue is not None and layer.epilogue.activation == "relu6"
    if layer.op == "block":
        for name, x in tensors.items():
            x.copy_(_sparse(name, tuple(x.shape), spec.reductions.get(name), generator))
    elif spec.products:
        B = largest_integer(spec.reduction)
        sizes = {"input": (B, 1.0), "weight": (B, UNIT), "bias": (WHOLE, STEP), "residual": (WHOLE, STEP)}
        for name, x in tensors.items():
            x.copy_(integers(tuple(x.shape), *sizes[name], generator))
    elif layer.op == "local_response_norm":
        alpha, k = abs(params["alpha"]), abs(params["k"])
        if alpha > 0:
            tensors["input"] *= sqrt(RAISED * (k or 1.0) / alpha)
    elif layer.op in ("avg_pool2d", "adaptive_avg_pool2d"):
        outputs = prod(spec.output_shape)
        tensors["input"].abs_().mul_(_chosen(tensors["input"].shape, spec.reduction, outputs, generator))
    elif layer.op == "softmax":
        x = tensors["input"]
        n = x.shape[params["dim"]] if x.dim() else 1
        x.sub_(BELOW * ~_chosen(x.shape, n, x.numel() // max(n, 1), generator))
    elif layer.op == "relu6" or (capped and layer.op == "residual_add"):
        for x in tensors.values():
            x *= 4  # a normal number passes 6 once in a billion times, four of them once in 15
    elif capped:  # batch_norm
        tensors["weight"] *= 4
        tensors["bias"] *= 4
    return {name: x.to(device) for name, x in tensors.items()}


def _sparse(name: str, shape: tuple[int, ...], length: int | None, generator: torch.Generator) -> Tensor:
    """A block's operand such that every map between its parts holds whole numbers that each dtype has: of an output's products
    about TERMS are not zero, and those are +-1 times an input's. The last part's result says whether every place was the right one.
    """
    if length is None:  # input and biases
        return integers(shape, 2, 1.0, generator)
    signs = 2.0 * torch.randint(0, 2, shape, generator=generator) - 1.0
    return signs * (torch.rand(shape, generator=generator) < TERMS / length)


def _chosen(shape: tuple[int, ...], length: int, outputs: int, generator: torch.Generator) -> Tensor:
    """A mask of the elements that matter: FEW of the `length` terms of an output, more where outputs are too few to try all."""
    share = max(FEW / max(length, 1), OFTEN / max(outputs, 1))
    return torch.rand(shape, generator=generator) < share

"""A block of ops as one call (specs.BlockSpec). A plan makes blocks (plan/blocks.py); this runs one on given tensors."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from convatlas.call import Call
from convatlas.errors import ArgumentError, ShapeError
from convatlas.ops import backends
from convatlas.ops.library import checked
from convatlas.ops.observe import notify
from convatlas.specs import BlockSpec


def block(
    spec: BlockSpec, tensors: dict[str, Tensor], *, backend: str | None = None, out: Tensor | None = None
) -> Tensor:
    """The last part's result of a block, on operands by the names that `spec.inputs` gives them.

    Args:
        backend: "cuda" where the pattern has a kernel that takes the shapes, "numpy" anywhere; None chooses by device.
        out: where the result goes, of spec.output_shape; it may share no memory with the operands.

    Raises ArgumentError for operands of other names, ShapeError for other shapes and for those that no kernel takes,
    DtypeError for a dtype that the backend has no kernel for, BackendError for a backend that cannot run here.
    """
    expected = spec.inputs
    if tensors.keys() != expected.keys():
        raise ArgumentError(f"{spec.pattern}: operands {', '.join(tensors) or 'none'}, expected {', '.join(expected)}")
    for name, x in tensors.items():
        if tuple(x.shape) != tuple(expected[name]):
            raise ShapeError(f"{spec.pattern}: {name} of shape {tuple(x.shape)}, expected {tuple(expected[name])}")
    call = checked(Call("block", spec), tensors, out)
    name = backends.resolve(backend, next(iter(tensors.values())), call)
    backends.check_dtype(name, call)
    call = replace(call, backend=name)
    result = backends.runner(name)(call, tensors, out)
    notify(call, tensors, result)
    return result

"""A driver for prepared launches that computes, from the packed bytes alone: Triton's interpreter and the host build for a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convatlas.codegen.stub import Stub
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.driver import LaunchConfig
from convatlas.kernels.common.parameters import Loaded, parameters, size


def tensor_at(address: int, like: Tensor) -> Tensor:
    """The memory at `address`, seen with the shape, strides and dtype of `like`."""
    extent = 1 + sum((n - 1) * s for n, s in zip(like.shape, like.stride()))
    memory = (ctypes.c_char * (extent * like.element_size())).from_address(address)
    return torch.frombuffer(memory, dtype=like.dtype).as_strided(like.shape, like.stride())


class Computing(Stub):
    """Runs each launch on what its packed parameters say; every number that is not an address must be the launch's own."""

    verifies = True

    def __init__(self) -> None:
        super().__init__()
        self.kernels: dict[int, tuple[Any, Loaded]] = {}
        self.count = 0

    def loaded(self, launch: Any, compiled: Any) -> Loaded:
        assert compiled is None  # nothing here has a GPU's handle
        kernel = super().loaded(launch, compiled)
        self.kernels[kernel.function] = launch, kernel
        return kernel

    def launch(self, config: int, function: int, given: int, device: int) -> None:
        launch, kernel = self.kernels[function]
        self.count += 1
        found = LaunchConfig.from_address(config)
        grid = (*launch.grid, 1, 1)[:3]
        assert (found.gridX, found.gridY, found.gridZ, found.blockX, found.shared) == (
            *grid,
            kernel.block,
            kernel.shared,
        )
        expected = parameters(launch, kernel)
        addresses = (ctypes.c_void_p * len(expected)).from_address(given)
        if isinstance(launch, CudaLaunch):
            bytes_of = ctypes.string_at(addresses[0], size(expected[0]))
            own = type("Packed", (CudaLaunch,), {"packed": bytes_of})
            own(**{f.name: getattr(launch, f.name) for f in fields(launch)}).run()
            return
        packed = ((ctypes.string_at(address, size(p)), p) for address, p in zip(addresses, expected))
        arguments = {
            name: _unpacked(launch.arguments[name], kind, packed)
            for name, kind in kernel.signature.items()
            if name in launch.arguments
        }
        assert [p for _, p in packed] == [bytes(8), bytes(8)]
        replace(launch, arguments=arguments).run()


def _unpacked(value: Any, kind: Any, packed: Iterator[tuple[bytes, Any]]) -> Any:
    """An argument, its tensors replaced by those at the packed addresses."""
    if isinstance(kind, tuple):
        return type(value)(*(_unpacked(v, k, packed) for v, k in zip(value, kind)))
    if kind == "constexpr":
        return value
    found, expected = next(packed)
    address = int.from_bytes(found[:8], "little")
    if isinstance(value, TensorDescriptor):
        for _ in range(2 * len(value.shape)):
            found, expected = next(packed)
            assert found == expected
        return TensorDescriptor(tensor_at(address, value.base), value.shape, value.strides, value.block_shape)
    if isinstance(value, Tensor):
        return tensor_at(address, value)
    assert found == expected
    return value

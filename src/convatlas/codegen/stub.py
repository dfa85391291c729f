"""A driver that launches nothing: what an H100's launches need before the driver is asked, for tensors on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from convatlas.kernels import backend
from convatlas.kernels.common.compiling import specialize
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.driver import MAP_BYTES
from convatlas.kernels.common.launch import Launch
from convatlas.kernels.common.parameters import Loaded
from convatlas.kernels.common.target import TARGETS
from convatlas.ops import hot


class Stub:
    """A driver (kernels/common/driver.py) that launches nothing, for tensors on a CPU."""

    verifies = False

    def __init__(self) -> None:
        self.launches: list[Any] = []  # what `function` of each Loaded counts in
        self._nothing = ctypes.CDLL(None).llabs
        self._nothing.argtypes = [ctypes.c_void_p] * 4

    def loaded(self, launch: Any, compiled: Any) -> Loaded:
        """A handle of a kernel that nobody has compiled, of the parameters that the compiler would give it."""
        self.launches.append(launch)
        function = len(self.launches)
        if isinstance(launch, CudaLaunch):
            return Loaded(function, launch.block, launch.shared)
        signature = specialize(launch)[0]
        count = sum(isinstance(kind, str) and kind.startswith("tensordesc") for kind in signature.values())
        return Loaded(function, 32 * launch.num_warps, 0, signature, ({},) * count)

    def launch(self, config: int, function: int, parameters: int, device: int) -> None:
        """Calls a C function that does nothing, as a launch calls the driver's."""
        self._nothing(0, function, parameters, None)

    def launch_graph(self, graph: int, stream: int, device: int) -> None:
        """As `launch`."""
        self._nothing(graph, stream, None, None)

    def current(self) -> int:
        return -1

    def stream(self, device: int) -> int:
        return 0

    def on(self, device: int) -> AbstractContextManager[None]:
        return nullcontext()

    def is_capturing(self, device: int) -> bool:
        return False

    def capturing(self) -> bool:
        return False

    def move(self, tensor_map: int, address: int) -> None:
        """The stub's descriptor is the address that it describes."""
        ctypes.c_uint64.from_address(tensor_map).value = address

    def tensor_map(self, meta: dict[str, Any], shape: Any, strides: Any, address: int) -> bytes:
        return address.to_bytes(8, "little").ljust(MAP_BYTES, b"\0")

    def require_layout(self, function: int, sizes: Any) -> None:
        pass


@contextmanager
def stubbed(driver: Any = None) -> Iterator[Any]:
    """Inside the block ops on CPU tensors make an H100's launches, and no kernel runs. Yields what is prepared (hot.state)."""
    before = Launch.run, CudaLaunch.run, backend.current
    Launch.run = CudaLaunch.run = lambda launch: None
    backend.current = lambda x, name: TARGETS["sm_90"]
    try:
        with hot.using(Stub() if driver is None else driver) as state, torch.no_grad():
            yield state
    finally:
        Launch.run, CudaLaunch.run, backend.current = before

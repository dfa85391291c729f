"""The CUDA driver as a prepared launch calls it: cuLaunchKernelEx on packed arguments, TMA descriptors, streams.

Every entry is NVIDIA's public driver interface (CUDA Driver API, "Execution Control" and "Tensor Map Object Management"), called by
ctypes, so that Triton's kernels and CuPy's are launched by the same code. A test or a benchmark puts an object of the same methods
in its place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager
from ctypes import byref, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from hashlib import sha256
from threading import Lock
from typing import Any

import torch

from convatlas.errors import BackendError

MAP_BYTES = 128  # of a CUtensorMap, which lies at a multiple of 64
UNASKED = (
    48 * 1024
)  # of shared memory: what a block may use without asking (CUDA C++ Programming Guide, "Shared Memory")
TILE = 8 * 1024  # from here on blocks need shared memory more than L1: a kernel is given all of what the two share
SHARED, CARVEOUT = 8, 9  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, _PREFERRED_SHARED_MEMORY_CARVEOUT
INVALID_CONTEXT = 201  # a thread that has not called CUDA yet has no current context


class Unprepared(Exception):
    """Why a launch stays on the ordinary path."""


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [(f"{kind}{axis}", c_uint) for kind in ("grid", "block") for axis in "XYZ"] + [
        ("shared", c_uint), ("stream", c_void_p), ("attributes", c_void_p), ("count", c_uint),
    ]  # fmt: skip


class LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute: which one, and its value in 64 bytes."""

    _fields_ = [("id", c_uint), ("pad", c_uint), ("value", ctypes.c_char * 64)]


# CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, allowed: programmatic dependent launch.
DEPENDENT = LaunchAttribute(6, 0, b"\1")


class Driver:
    """libcuda. Raises BackendError where it is not here."""

    verifies = True  # a kernel's first prepared launch is held against the ordinary one, bit for bit

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
            self._launch = self._library.cuLaunchKernelEx
        except (OSError, AttributeError) as error:
            raise BackendError(f"launches are not prepared: {error}, expected a driver of CUDA 11.8 or newer") from None
        self._launch.argtypes = [c_void_p] * 4
        # cuTensorMapReplaceAddress came with cuTensorMapEncodeTiled; without them no kernel here has a descriptor either.
        if (replace := getattr(self._library, "cuTensorMapReplaceAddress", None)) is not None:
            replace.argtypes = [c_void_p] * 2
        self._replace = replace
        self._launch_graph = self._library.cuGraphLaunch
        self._launch_graph.argtypes = [c_void_p] * 2
        self._held: dict[
            Any, int
        ] = {}  # modules, their functions, and the shared memory that a function's blocks may use
        self._lock = Lock()
        # Bound once: these are the hot calls.
        self.stream = torch._C._cuda_getCurrentRawStream
        self.current = torch._C._cuda_getDevice
        self.capturing = torch._C._cuda_isCurrentStreamCapturing

    def on(self, device: int) -> AbstractContextManager:
        """A block in which `device` is the current one."""
        return torch.cuda.device(device)

    def is_capturing(self, device: int) -> bool:
        """Whether a CUDA graph records the device's current stream, so that nothing may wait for the GPU."""
        with torch.cuda.device(device):
            return torch.cuda.is_current_stream_capturing()

    def launch(self, config: int, function: int, parameters: int, device: int) -> None:
        """One launch; the addresses of a LaunchConfig and of the array of parameters' addresses."""
        if status := self._launch(config, function, parameters, None):
            self._again(status, device, self._launch, config, function, parameters, None)

    def load(self, code: bytes, function: str, shared: int, device: int) -> int:
        """The handle of a function of a cubin in the memory of `device`, for blocks of `shared` bytes; it stays there.

        Raises Unprepared where the driver refuses it.
        """
        key = device, sha256(code).digest(), function
        with self._lock, self.on(device):
            self._bind(device)
            if key not in self._held:
                if key[:2] not in self._held:
                    module = c_void_p()
                    self._loading(self._library.cuModuleLoadData(byref(module), code), "a cubin")
                    self._held[key[:2]] = module.value or 0
                found = c_void_p()
                module = c_void_p(self._held[key[:2]])
                self._loading(self._library.cuModuleGetFunction(byref(found), module, function.encode()), function)
                self._held[key] = found.value or 0
            handle = self._held[key]
            if shared > self._held.get((handle, SHARED), UNASKED):
                self._loading(
                    self._library.cuFuncSetAttribute(c_void_p(handle), SHARED, shared), f"{function}, {shared} bytes"
                )
                self._held[handle, SHARED] = shared
            if shared > TILE:
                self._loading(self._library.cuFuncSetAttribute(c_void_p(handle), CARVEOUT, 100), function)
            return handle

    def _loading(self, status: int, what: str) -> None:
        if status:
            raise Unprepared(f"the driver refuses {what}: {self._message(status)}")

    def launch_graph(self, graph: int, stream: int, device: int) -> None:
        """Launches a CUgraphExec."""
        if status := self._launch_graph(graph, stream):
            self._again(status, device, self._launch_graph, graph, stream)

    def event(self) -> Any:
        """An event that `record` and `wait` take."""
        return torch.cuda.Event()

    def record(self, event: Any, device: int, default: bool = False) -> None:
        """The event is behind what lies on the device's current stream (or its default stream) now."""
        event.record(torch.cuda.default_stream(device) if default else torch.cuda.current_stream(device))

    def wait(self, event: Any, device: int) -> None:
        """What comes on the device's current stream waits for the event."""
        torch.cuda.current_stream(device).wait_event(event)

    def move(self, tensor_map: int, address: int) -> None:
        """Lets the descriptor at `tensor_map` describe the same box of the memory at `address`."""
        if status := self._replace(tensor_map, address):
            raise RuntimeError(f"CUDA error: {self._message(status)}")

    def tensor_map(self, meta: dict[str, Any], shape: Sequence[int], strides: Sequence[int], address: int) -> bytes:
        """The CUtensorMap of a Triton descriptor: `meta` is what the compiler chose for it, sizes and strides in elements.

        Raises Unprepared where the driver has none, or refuses it.
        """
        if self._replace is None or meta.get("fp4_padded") or meta.get("is_im2col"):
            raise Unprepared("a tensor descriptor that the driver cannot move")
        from triton.backends.nvidia.driver import TMA_DTYPE_DEVICE_TO_HOST

        rank = len(shape)
        memory = ctypes.create_string_buffer(2 * MAP_BYTES)
        base = -(-ctypes.addressof(memory) // MAP_BYTES) * MAP_BYTES
        sizes = (c_uint64 * rank)(*reversed(shape))
        steps = (c_uint64 * rank)(*(s * meta["elem_size"] for s in reversed(strides[:-1])))
        box, ones = (c_uint * rank)(*reversed(meta["block_size"])), (c_uint * rank)(*[1] * rank)
        # No interleaving, promotion of L2 to 128 bytes, zeros outside the image: what Triton's launcher asks for.
        status = self._library.cuTensorMapEncodeTiled(
            c_void_p(base), TMA_DTYPE_DEVICE_TO_HOST[meta["elem_type"]], rank, c_void_p(address), sizes, steps, box, ones,
            0, meta["swizzle"], 2, 0,
        )  # fmt: skip
        if status:
            raise Unprepared(f"a tensor descriptor: {self._message(status)}")
        return ctypes.string_at(base, MAP_BYTES)

    def require_layout(self, function: int, sizes: Sequence[int]) -> None:
        """Raises Unprepared unless the kernel takes parameters of exactly these sizes, in bytes, where the driver can tell."""
        ask = getattr(self._library, "cuFuncGetParamInfo", None)  # CUDA 12.4
        if ask is None:
            return
        offset, size, found = c_size_t(), c_size_t(), []
        while ask(c_void_p(function), c_size_t(len(found)), byref(offset), byref(size)) == 0:
            found.append(size.value)
        if found != list(sizes):
            raise Unprepared(f"the kernel takes parameters of {found} bytes, expected {list(sizes)}")

    def _again(self, status: int, device: int, call: Any, *given: Any) -> None:
        """Repeats a call that failed where this thread had no context; else raises."""
        if status == INVALID_CONTEXT:
            self._bind(device)
            status = call(*given)
        if status:
            raise RuntimeError(f"CUDA error: {self._message(status)}")

    def _bind(self, device: int) -> None:
        """Makes the device's primary context this thread's current one, which torch has made."""
        handle, context = ctypes.c_int(), c_void_p()
        library = self._library
        if library.cuDeviceGet(byref(handle), device) == 0 and (
            library.cuDevicePrimaryCtxRetain(byref(context), handle) == 0
        ):
            library.cuCtxSetCurrent(context)
            library.cuDevicePrimaryCtxRelease_v2(handle)  # torch holds it

    def _message(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(status, byref(text))
        return (text.value or b"unknown error").decode()


@cache
def cuda_driver() -> Driver:
    """This process's."""
    return Driver()

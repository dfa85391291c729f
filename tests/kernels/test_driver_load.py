"""What the driver is asked when a cubin is loaded, by a library that answers as libcuda does; the layout of what it is given."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from threading import Lock
from typing import Any

import pytest

from convatlas.kernels.common.driver import CARVEOUT, DEPENDENT, SHARED, Driver, Unprepared
from convatlas.kernels.common.parameters import Loaded
from convatlas.kernels.common.prepared import Frame, Prepared


class Library:
    """Counts up a handle for each module and function; refuses a cubin of zeros."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def cuModuleLoadData(self, module: Any, code: bytes) -> int:
        module._obj.value = 100 + len(self.asked)
        self.asked.append(("module", code))
        return 200 if not any(code) else 0

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        function._obj.value = 1000 + len(self.asked)
        self.asked.append(("function", module.value, name))
        return 0

    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> int:
        self.asked.append((attribute, function.value, value))
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver.__new__(Driver)
    made._library, made._held, made._lock = Library(), {}, Lock()
    monkeypatch.setattr(Driver, "on", lambda self, device: nullcontext())
    monkeypatch.setattr(Driver, "_bind", lambda self, device: None)
    monkeypatch.setattr(Driver, "_message", lambda self, status: f"status {status}")
    return made


def test_a_module_and_a_function_are_loaded_once_a_device(driver: Driver) -> None:
    first = driver.load(b"cubin", "f", 0, 0)
    assert driver._library.asked == [("module", b"cubin"), ("function", 100, b"f")]
    assert driver.load(b"cubin", "f", 0, 0) == first and len(driver._library.asked) == 2
    assert driver.load(b"cubin", "g", 0, 0) != first and driver._library.asked[2:] == [("function", 100, b"g")]
    assert driver.load(b"cubin", "f", 0, 1) != first and [kind for kind, *_ in driver._library.asked[3:]] == [
        "module",
        "function",
    ]


def test_shared_memory_is_asked_for_and_never_taken_away(driver: Driver) -> None:
    f = driver.load(b"cubin", "f", 4096, 0)
    del driver._library.asked[:]
    for shared, asked in (
        (48 * 1024, [(CARVEOUT, f, 100)]),
        (100_000, [(SHARED, f, 100_000), (CARVEOUT, f, 100)]),
        (60_000, [(CARVEOUT, f, 100)]),
    ):
        driver.load(b"cubin", "f", shared, 0)
        assert driver._library.asked == asked
        del driver._library.asked[:]


def test_what_the_driver_refuses_is_one_line(driver: Driver) -> None:
    with pytest.raises(Unprepared, match=r"^the driver refuses a cubin: status 200$"):
        driver.load(bytes(4), "f", 0, 0)


def test_constants_and_the_attribute_are_those_of_the_driver() -> None:
    cuda = pytest.importorskip("cuda.bindings.driver")
    attribute = cuda.CUlaunchAttribute()
    attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    value = cuda.CUlaunchAttributeValue()
    value.programmaticStreamSerializationAllowed = 1
    attribute.value = value
    assert ctypes.string_at(int(attribute.getPtr()), ctypes.sizeof(DEPENDENT)) == bytes(DEPENDENT)
    of = cuda.CUfunction_attribute
    assert int(of.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) == SHARED
    assert int(of.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) == CARVEOUT


@pytest.mark.parametrize("dependent", [True, False])
def test_a_dependent_kernel_is_launched_with_the_attribute(dependent: bool) -> None:
    kernel = Loaded(1, 32, 0, {}, (), None, dependent)
    prepared = Prepared(None, 0, bytes(16), (), (), ((kernel, (1, 1, 1), (0, 8)),), (), 0, True)
    (config,) = Frame(prepared).configs
    assert (config.attributes, config.count) == ((ctypes.addressof(DEPENDENT), 1) if dependent else (None, 0))

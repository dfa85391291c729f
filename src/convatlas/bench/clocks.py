"""The GPU's clocks, temperature, power and throttle reasons, read through NVML. Nothing is ever set."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

# nvml.h, nvmlClocksEventReasons: what may hold the clocks down.
REASONS = {
    0x01: "idle",
    0x02: "applications clocks setting",
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
    0x100: "display clock setting",
}


@cache
def _device() -> tuple[Any, Any]:
    """(pynvml, handle) of torch's current GPU, which CUDA_VISIBLE_DEVICES may number otherwise than NVML does."""
    import pynvml

    pynvml.nvmlInit()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")


def reasons(mask: int) -> list[str]:
    """The names of the bits set in NVML's mask, an unknown bit as its number."""
    known = [name for bit, name in REASONS.items() if mask & bit]
    return known + [hex(1 << i) for i in range(mask.bit_length()) if mask >> i & 1 and 1 << i not in REASONS]


def sample() -> dict[str, Any]:
    """{"sm_mhz", "mem_mhz", "temperature_c", "power_w", "throttle"}; what NVML withholds is None, and why is in "unavailable".

    Never raises: a time without its clocks is still a time, and the record says that they are missing.
    """
    found: dict[str, Any] = dict.fromkeys(("sm_mhz", "mem_mhz", "temperature_c", "power_w", "throttle"))
    try:
        nvml, handle = _device()
    except Exception as error:  # no package, no driver, no GPU: each raises its own
        return {**found, "unavailable": f"{type(error).__name__}: {error}"}
    ask = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "mem_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "throttle": lambda: reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
    }
    for name, read in ask.items():
        try:
            found[name] = read()
        except Exception as error:  # a virtual GPU may answer some questions and not others
            found["unavailable"] = f"{name}: {type(error).__name__}: {error}"
    return found

"""The protocol: turns, forms, data sets, made-up times, and the clocks that go on record."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from convatlas.bench import clocks
from convatlas.bench.timing import (
    LEAST,
    MOST_SETS,
    Contestant,
    CudaTimer,
    FakeTimer,
    HostTimer,
    Protocol,
    race,
    reason,
    sets_for,
)


class Told:
    """A timer that writes down what it is asked for; sample n of anything takes n + 1 seconds."""

    label, cache_bytes = "told", 0

    def __init__(self) -> None:
        self.log: list[str] = []
        self.forms: list[str] = []

    def prepare(self, run, sets: Sequence, form: str):
        run(sets[0])
        self.forms.append(form)
        who, count = self.last, iter(range(1, 100))

        def sample() -> float:
            self.log.append(who)
            return float(next(count))

        return sample

    def contestant(self, name: str, form: str | None = None) -> Contestant:
        def run(data) -> None:
            self.last = name

        return Contestant(name, run, form)


def test_contestants_take_turns_in_both_orders() -> None:
    timer = Told()
    found, _ = race([timer.contestant("A"), timer.contestant("B")], [{}], timer, Protocol(samples=4))
    assert "".join(timer.log) == "ABBAABBA"
    assert found["A"] == found["B"] == [1.0, 2.0, 3.0, 4.0]


def test_a_contestant_may_have_a_form_of_its_own() -> None:
    timer = Told()
    race([timer.contestant("A"), timer.contestant("B", "eager")], [{}], timer, Protocol(form="graph", samples=1))
    assert timer.forms == ["graph", "eager"]


def test_who_raises_is_out_and_says_why() -> None:
    def broken(data) -> None:
        raise RuntimeError("no plan for this layer\nand a long story")

    racing = [Contestant("A", lambda data: None), Contestant("B", broken)]
    found, out = race(racing, [{}], HostTimer(), Protocol(samples=3))
    assert list(found) == ["A"] and len(found["A"]) == 3 and out == {"B": "RuntimeError: no plan for this layer"}


def test_a_reason_is_one_short_line() -> None:
    assert reason(ValueError("")) == "ValueError: "
    assert len(reason(ValueError("x" * 500))) == 160


def test_the_host_timer_measures_seconds() -> None:
    import time

    found, _ = race([Contestant("A", lambda data: time.sleep(0.02))], [{}], HostTimer(), Protocol(samples=3))
    assert all(0.02 <= s < 2 for s in found["A"])


def test_the_host_timer_may_settle_before_each_sample() -> None:
    """A pause and a run that is not timed: 1 to warm up, then 2 a sample, and only every second one is timed."""
    runs = []
    found, _ = race([Contestant("A", lambda data: runs.append(1))], [{}], HostTimer(0.0), Protocol(samples=3))
    assert len(runs) == 7 and len(found["A"]) == 3


def test_made_up_times_are_the_same_for_a_seed_and_near_the_bound() -> None:
    def times(seed: int) -> list[float]:
        racing = [Contestant(name, lambda data: None) for name in "AB"]
        found, _ = race(racing, [{}], FakeTimer(1e-5, seed), Protocol(samples=5))
        return found["A"] + found["B"]

    assert times(1) == times(1) != times(2)
    assert all(1e-5 < s < 4e-5 for s in times(1))
    assert FakeTimer.label == "rehearsal"


@pytest.mark.parametrize(
    "cache, L2, each, expected",
    [
        ("cold", 50, 30, 4),
        ("cold", 50, 100, 1),
        ("cold", 50, 1000, 1),
        ("warm", 50, 1, 1),
        ("cold", 0, 1, 1),
        ("cold", 10**6, 1, MOST_SETS),
    ],
)
def test_data_sets_are_twice_the_cache(cache: str, L2: int, each: int, expected: int) -> None:
    assert sets_for(SimpleNamespace(cache_bytes=L2), cache, each) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["graph", "eager"])
def test_cuda_times_agree_with_the_bandwidth(form: str) -> None:
    """A copy of 256 MB cannot be faster than 20 TB/s, nor slower than 100 GB/s, on any GPU that this runs on."""
    x = torch.randn(2**26, device="cuda")
    y = torch.empty_like(x)
    found, _ = race([Contestant("copy", lambda t: y.copy_(t["x"]))], [{"x": x}], CudaTimer(), Protocol("warm", form, 5))
    rates = [2 * x.nbytes / s for s in found["copy"]]
    assert len(rates) == 5 and all(1e11 < rate < 2e13 for rate in rates)


@pytest.mark.gpu
def test_short_work_is_repeated_until_events_resolve_it() -> None:
    x = torch.zeros(1, device="cuda")
    timer, seen = CudaTimer(), []
    between = timer._between
    timer._between = lambda once, times: seen.append(times) or between(once, times)
    sample = timer.prepare(lambda t: t["x"].add_(1), [{"x": x}], "graph")
    assert 0 < sample() < LEAST and seen[-1] > 1


def test_reasons_name_every_bit() -> None:
    assert clocks.reasons(0) == []
    assert clocks.reasons(0x04 | 0x40 | 0x1000) == ["power cap", "thermal, hardware", "0x1000"]


def test_clocks_are_read_and_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(handle):
        raise RuntimeError("not supported")

    asked = SimpleNamespace(
        NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0, nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetClockInfo=lambda handle, which: {1: 1755, 2: 2619}[which],
        nvmlDeviceGetTemperature=lambda handle, which: 41,
        nvmlDeviceGetPowerUsage=lambda handle: 123_400,
        nvmlDeviceGetCurrentClocksThrottleReasons=refused,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", asked)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid="abc"))
    clocks._device.cache_clear()
    try:
        found = clocks.sample()
    finally:
        clocks._device.cache_clear()
    assert {name: found[name] for name in ("sm_mhz", "mem_mhz", "temperature_c", "power_w")} == {
        "sm_mhz": 1755, "mem_mhz": 2619, "temperature_c": 41, "power_w": 123.4,
    }  # fmt: skip
    assert found["throttle"] is None and "not supported" in found["unavailable"]


def test_clocks_without_nvml_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    clocks._device.cache_clear()
    found = clocks.sample()
    assert found["sm_mhz"] is None and "pynvml" in found["unavailable"]

"""How device times reach pytest-benchmark: its timer reads a clock that each round sets to that round's sample.

pytest-benchmark times a function on the host. Work on a GPU is asynchronous and was timed before, by CUDA events, in a race of all
contestants; so the function that it is given here launches nothing and sets CLOCK forward by one recorded sample. What it then
stores as its rounds are those samples, to the last bit: the clock starts every round at zero.

    @pytest.mark.benchmark(timer=CLOCK)
    def test_layer(benchmark):
        feed(benchmark, entry)
"""

from __future__ import annotations

from typing import Any

from convatlas.results.store import Entry


class RecordedClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def __repr__(self) -> str:
        """In the store, under options: an address there would differ from run to run."""
        return "convatlas.bench.harness.CLOCK"


CLOCK = RecordedClock()


def feed(benchmark: Any, entry: Entry) -> None:
    """Makes the entry what pytest-benchmark's fixture, whose timer must be CLOCK, stores: its seconds are the rounds."""
    benchmark.group, benchmark.params = entry.case, {"case": entry.case, "contestant": entry.contestant}
    benchmark.extra_info.update(entry.extra)
    samples = iter(entry.seconds)

    def rewind() -> None:
        CLOCK.now = 0.0

    def launch() -> None:
        CLOCK.now = next(samples)

    benchmark.pedantic(launch, setup=rewind, rounds=len(entry.seconds), iterations=1, warmup_rounds=0)

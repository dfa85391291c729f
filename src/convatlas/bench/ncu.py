"""Hardware counters of one run of a net by NVIDIA Nsight Compute (ncu), where it is installed and this account may read counters.

Source of the metrics' names: NVIDIA, Nsight Compute documentation, "Metrics Reference".
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from convatlas.errors import InputError

TIME, DRAM = "gpu__time_duration.sum", "dram__bytes.sum"
TENSOR = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
METRICS = (TIME, DRAM, TENSOR)
FORBIDDEN = "ERR_NVGPUCTRPERM"
# ncu prints a value in the unit that suits its size, unless it is asked for base units; these are what "base" gives.
UNITS = {TIME: 1e-9, DRAM: 1.0, TENSOR: 0.01}
Execute = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Counters:
    """The hardware counters of one kernel of the run.

    Attributes:
        kernel: its name.
        seconds: under ncu, which fixes the clocks to their base: not comparable with any other time here.
        dram_bytes: read and written.
        tensor: share of the time in which the tensor pipes were active, 0 to 1.

    None where this GPU has no such counter.
    """

    kernel: str
    seconds: float | None
    dram_bytes: float | None
    tensor: float | None


def execute(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(command), capture_output=True, text=True, timeout=seconds)


def counters(
    net: str, batch: int, dtype: str, backend: str, size: int, seconds: float = 120, run: Execute = execute
) -> list[Counters] | str:
    """The kernels of one forward pass in order, or one sentence why there are none."""
    program = shutil.which("ncu")
    if program is None:
        return "no hardware counters: ncu (NVIDIA Nsight Compute) is not installed here."
    child = [sys.executable, "-m", "convatlas.bench.ncu", net, str(batch), dtype, backend, str(size)]
    options = ["--profile-from-start", "off", "--metrics", ",".join(METRICS), "--csv", "--print-units", "base"]
    try:
        ended = run([program, *options, *child], seconds)
    except subprocess.TimeoutExpired:
        return f"no hardware counters: ncu was stopped after {seconds:.0f} s."
    if FORBIDDEN in ended.stdout + ended.stderr:
        return f"no hardware counters: ncu is here, but this account may not read them ({FORBIDDEN})."
    try:
        return parsed(ended.stdout)
    except InputError as error:
        return f"no hardware counters: ncu ended with code {ended.returncode} ({error})."


def parsed(text: str) -> list[Counters]:
    """From ncu's CSV, one line a kernel and metric, after whatever else was printed. Raises InputError where there is none."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise InputError(
            f'{(lines or ["no output"])[-1][:120]!r}, expected a line of column names that begins with "ID"'
        )
    kernels: dict[str, tuple[str, dict[str, float]]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        metric, value = row["Metric Name"], row["Metric Value"].replace(",", "")
        values = kernels.setdefault(row["ID"], (row["Kernel Name"], {}))[1]
        with suppress(ValueError):  # "n/a" where this GPU has no such counter
            values[metric] = float(value) * UNITS[metric]
    return [Counters(name, *(values.get(metric) for metric in METRICS)) for name, values in kernels.values()]


def _once(net: str, batch: str, dtype: str, backend: str, size: str) -> None:
    """What runs under ncu: a warm-up that is not counted, then one forward pass that is."""
    import torch

    from convatlas import nets
    from convatlas.bench.cases import PRECISIONS
    from convatlas.bench.contestants import on
    from convatlas.kernels.common.precision import float32_products

    kind, products = PRECISIONS[dtype]
    model = nets.create(net, seed=0).to("cuda", kind)
    x = torch.randn(int(batch), 3, int(size), int(size), device="cuda").to(kind)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), on(backend), float32_products(products):
        model(x)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        model(x)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    _once(*sys.argv[1:])

"""Occupancy by hand, and equal to NVIDIA's own header, which lies in the Triton wheel, over random launches."""

import random
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from convatlas.errors import InputError
from convatlas.model.gpu import architecture
from convatlas.model.occupancy import occupancy

ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)
NAMES = {1: "warps", 2: "registers", 4: "shared memory", 8: "blocks"}  # cudaOccLimitingFactor
ORACLE = """
#include <cstdio>
#include <climits>
#include "cuda_occupancy.h"
int main() {
    int major, minor, threads_sm, block_threads, registers_sm, block_registers, threads, registers;
    long shared_sm, block_shared, reserved, dynamic;
    while (std::scanf("%d %d %d %d %d %d %ld %ld %ld %d %d %ld", &major, &minor, &threads_sm, &block_threads, &registers_sm,
                      &block_registers, &shared_sm, &block_shared, &reserved, &threads, &registers, &dynamic) == 12) {
        cudaOccDeviceProp d;
        d.computeMajor = major; d.computeMinor = minor; d.maxThreadsPerBlock = block_threads;
        d.maxThreadsPerMultiprocessor = threads_sm; d.regsPerBlock = block_registers; d.regsPerMultiprocessor = registers_sm;
        d.warpSize = 32; d.sharedMemPerBlock = 49152; d.sharedMemPerMultiprocessor = shared_sm; d.numSms = 100;
        d.sharedMemPerBlockOptin = block_shared; d.reservedSharedMemPerBlock = reserved;
        cudaOccFuncAttributes f;
        f.maxThreadsPerBlock = INT_MAX; f.numRegs = registers; f.sharedSizeBytes = 0;
        f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; f.maxDynamicSharedSizeBytes = block_shared; f.numBlockBarriers = 1;
        cudaOccDeviceState s;
        s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
        cudaOccResult r;
        int error = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &d, &f, &s, threads, dynamic);
        std::printf("%d %d %u\\n", error, r.activeBlocksPerMultiprocessor, r.limitingFactors);
    }
}
"""


def test_by_hand():
    """Hopper: 64 warps, 64 K registers, 228 KB an SM."""
    hopper = architecture(90)
    # 4 warps of 168 registers: a warp takes 5376, a partition of 16384 holds 3, an SM 12: 3 blocks.
    found = occupancy(hopper, 128, 168, 0)
    assert (found.blocks, found.limiters, found.share) == (3, ("registers",), 12 / 64)
    # 98,304 + 1,024 bytes of 233,472: 2 blocks.
    found = occupancy(hopper, 128, 100, 98304)
    assert (found.blocks, found.limiters) == (2, ("shared memory",))
    assert found.limits == {"warps": 16, "registers": 4, "shared memory": 2, "blocks": 32}
    # One warp a block: 32 blocks are the limit, half of the warps.
    found = occupancy(hopper, 32, 32, 0)
    assert (found.blocks, found.limiters, found.share) == (32, ("blocks",), 0.5)
    # 8 warps of 64 registers: 2048 each, 8 a partition, 32 warps, 4 blocks.
    assert occupancy(hopper, 256, 64, 0).blocks == 4


def test_what_no_sm_can_take():
    assert occupancy(architecture(90), 1056, 32, 0).limiters == ("warps",)
    assert occupancy(architecture(90), 128, 32, 228 * 1024).blocks == 0
    assert occupancy(architecture(90), 1024, 128, 0).blocks == 0  # 128 K registers
    with pytest.raises(InputError, match="0 threads"):
        occupancy(architecture(90), 0, 32, 0)
    with pytest.raises(InputError, match="compute capability 42, expected one of 70"):
        architecture(42)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """NVIDIA's calculator, compiled."""
    triton = find_spec("triton")
    include = Path(triton.submodule_search_locations[0]) / "backends/nvidia/include" if triton else Path()
    if not (include / "cuda_occupancy.h").is_file():
        pytest.skip("no cuda_occupancy.h in a Triton wheel")
    if not shutil.which("g++"):
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("oracle")
    (folder / "oracle.cpp").write_text(ORACLE)
    command = ["g++", "-O1", "-w", f"-I{include}", str(folder / "oracle.cpp"), "-o", str(folder / "oracle")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / "oracle"


def test_equal_to_nvidias_calculator(oracle):
    draw = random.Random(0)
    cases = []
    for arch in ARCHITECTURES:
        a = architecture(arch)
        for _ in range(2500):
            threads = draw.choice((32, 64, 96, 128, 160, 256, 384, 512, 1024, draw.randint(1, 1024)))
            shared = draw.choice((0, 0, draw.randint(0, a.block_shared), draw.randint(0, 16384), a.block_shared))
            cases.append((a, threads, draw.randint(1, 255), shared))
    lines = [
        f"{a.arch // 10} {a.arch % 10} {a.threads} {a.block_threads} {a.registers} {a.block_registers} {a.shared} {a.block_shared} "
        f"{a.reserved_shared} {threads} {registers} {shared}\n"
        for a, threads, registers, shared in cases
    ]
    done = subprocess.run([str(oracle)], input="".join(lines), capture_output=True, text=True, check=True)
    answers = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases)
    wrong = []
    for (a, threads, registers, shared), (error, blocks, factors) in zip(cases, answers):
        assert error == 0, (a.arch, threads, registers, shared)
        found = occupancy(a, threads, registers, shared)
        limiters = {name for bit, name in NAMES.items() if factors & bit}
        if found.blocks != blocks or set(found.limiters) != limiters:
            wrong.append((a.arch, threads, registers, shared, found, blocks, limiters))
    assert not wrong, f"{len(wrong)} of {len(cases)}, the first: {wrong[0]}"
    assert len({blocks for _, blocks, _ in answers}) > 15  # the sample meets many limits

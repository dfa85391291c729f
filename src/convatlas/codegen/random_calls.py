"""Compiles random convolutions to test what must hold for every shape: no spills, no stack, and shared memory that fits.

`python -m convatlas.codegen.random_calls --backend triton --seed 0 --count 12` compiles launch configs of random convolutions on
one process and prints one JSON list, as convatlas.codegen.inventory does for the networks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, count
from random import Random
from typing import Any

from convatlas.call import Call
from convatlas.codegen.inventory import MODES, identity, launches_of
from convatlas.kernels.common.target import TARGETS
from convatlas.specs import Conv2dSpec, Epilogue
from convatlas.specs.activations import ACTIVATIONS

ARCHITECTURES = tuple(target.arch for target in TARGETS.values() if not target.unbounded)


def random_convolution(random: Random) -> Call:
    """A convolution with random window, strides, dilations, groups, channel counts and epilogue, such as no network may have."""
    family = random.choice(("few", "narrow", "odd", "even", "depthwise"))
    groups = 1 if family == "few" else random.choice((1, 1, 1, 2, 3, 4, 8, 32))
    if family == "depthwise":
        C = groups = random.randint(1, 300)
        K = C * random.choice((1, 1, 2, 3))
    else:
        ranges = {"few": (1, 15), "narrow": (16, 40), "odd": (16, 300), "even": (32, 512)}
        step = 32 if family == "even" else 1
        low, high = ranges[family]
        C = max(random.randrange(low, high + 1, step) // groups, 1) * groups
        K = max(random.choice((random.randint(1, 300), C, random.choice((24, 32, 64, 112, 256)))) // groups, 1) * groups
    R = random.choice((1, 2, 3, 3, 5, 7, 11))
    S = random.choice((R, R, R, 1, 3, 7))
    dilation = random.choice((1, 1, 1, 2, 3))
    size = max(random.choice((7, 14, 28, 56, 112)), dilation * (max(R, S) - 1) + 1)
    spec = Conv2dSpec.of(
        (random.choice((1, 8, 32)), C, size, size), (K, C // groups, R, S),
        random.choice((1, 1, 2, 3, 4)), (R // 2 * dilation, S // 2 * dilation), dilation, groups,
    )  # fmt: skip
    epilogue = Epilogue(random.random() < 0.5, random.choice(ACTIVATIONS), random.random() < 0.3)
    return Call("conv2d", spec, epilogue)


# Convolutions that once spilled: filters or channels that no vector covers, wide windows, and float32 behind a long mask.
SPILLED = (
    (((32, 12, 112, 112), (24, 12, 7, 7), 3, 3), "float16", 90),
    (((3, 17, 56, 56), (19, 17, 3, 3), 1, 1), "float16", 80),
    (((1, 96, 56, 56), (112, 96, 1, 7), 1, (0, 3)), "float32", 100),
    (((32, 40, 28, 28), (40, 10, 5, 5), 1, 2, 1, 4), "bfloat16", 90),
    (((32, 273, 112, 112), (6, 91, 7, 1), 3, (3, 0), 1, 3), "tf32", 100),
    (((8, 3, 112, 112), (109, 3, 7, 7), 3, 3), "float16", 100),
    (((8, 120, 56, 56), (120, 1, 7, 7), 2, 3, 1, 120), "tf32", 80),
)


def random_launches(seed: int, backend: str) -> Iterator[tuple[Call, str, int, Any]]:
    """(call, mode, arch, launch) without end: the launches of SPILLED, then random convolutions in random modes on random GPUs."""
    random = Random(seed)
    known = [
        (Call("conv2d", Conv2dSpec.of(*shape), Epilogue(True, "relu")), mode, arch) for shape, mode, arch in SPILLED
    ]
    drawn = ((random_convolution(random), random.choice(list(MODES)), random.choice(ARCHITECTURES)) for _ in count())
    for call, mode, arch in chain(known, drawn):
        for launch in launches_of(call, mode, arch, backend):
            yield call, mode, arch, launch


def compile_random(seed: int, backend: str, configs: int) -> Iterator[dict[str, Any]]:
    """Records of `configs` different launch configs or instantiations, as inventory.compile_inventory gives them."""
    from convatlas.codegen.cross_compile import compile_launch
    from convatlas.codegen.nvrtc import compile_launches

    seen: set[tuple] = set()
    for call, mode, arch, launch in random_launches(seed, backend):
        if len(seen) == configs:
            return
        if (name := (arch, *identity(launch, mode))) in seen:
            continue
        seen.add(name)
        made = compile_launches([launch], arch)[0] if backend == "cuda" else compile_launch(launch, arch)
        yield {"spec": str(call.spec), "mode": mode, **asdict(made), "spills": made.spills}


def main(arguments: list[str]) -> None:
    """--backend triton or cuda, --seed, --count."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m convatlas.codegen.random_calls", description=__doc__)
    parser.add_argument("--backend", choices=["triton", "cuda"], default="triton")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=12)
    given = parser.parse_args(arguments)
    json.dump(list(compile_random(given.seed, given.backend, given.count)), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])

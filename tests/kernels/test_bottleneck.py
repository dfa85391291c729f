"""ResNet's blocks as one kernel: held to the chain of their parts on every tile, in other orders of threads, and with faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from block_cases import hold_both, hold_reversed, meta, run
from kernel_cases import guarded, hold
from planting import copied_kernels, plant
from rotation import share

import convatlas
from convatlas import nets
from convatlas.call import Call
from convatlas.codegen.block_calls import basic_block, bottleneck
from convatlas.errors import ShapeError
from convatlas.kernels.backend import launches, room
from convatlas.kernels.bottleneck.configs import BASIC_BLOCKS, BOTTLENECKS, Tile
from convatlas.kernels.common.override import noting, override
from convatlas.kernels.common.target import TARGETS
from convatlas.model.gpu import gpu
from convatlas.ops.block import block
from convatlas.plan.siblings import seconds
from convatlas.study.layer import Layer
from convatlas.verify.single import operands
from convatlas.verify.verify import verify

# Sizes that tiles divide, and those whose last tiles reach over both edges.
SIZES = [(1, 14, 14), (2, 7, 7), (1, 29, 15)]
KINDS = {
    "64": lambda n, h, w, dtype: bottleneck((n, 256, h, w), 64, 256, dtype=dtype),
    "64-downsample": lambda n, h, w, dtype: bottleneck((n, 64, h, w), 64, 256, True, dtype),
    "64-odd-channels": lambda n, h, w, dtype: bottleneck((n, 192, h, w), 64, 192, dtype=dtype),
    "128": lambda n, h, w, dtype: bottleneck((n, 512, h, w), 128, 512, dtype=dtype),
    "basic": lambda n, h, w, dtype: basic_block((n, 64, h, w), dtype),
}


def tiles(kind: str) -> tuple[Tile, ...]:
    return BASIC_BLOCKS[64] if kind == "basic" else BOTTLENECKS[int(kind.split("-")[0])]


CELLS = [
    (kind, tile, size, dtype)
    for kind in KINDS
    for k, tile in enumerate(tiles(kind))
    for size, dtype in [(SIZES[k % 3], "float16"), (SIZES[(k + 1) % 3], "bfloat16")]
]


# Nine of 26 by turns, and so every kind: each is a library to build. A GPU runs all of them, at the end of this file.
@pytest.mark.parametrize(
    ("kind", "tile", "size", "dtype"), share(CELLS, 9), ids=lambda x: f"{x.height}" if isinstance(x, Tile) else str(x)
)
def test_every_tile(kind: str, tile: Tile, size: tuple[int, int, int], dtype: str, poisoned: None) -> None:
    call = KINDS[kind](*size, dtype)
    assert room(call.spec.pattern, "takes")(call.spec, dtype)
    with override(tile):
        hold_both(call)


@pytest.mark.parametrize("kind", ["64", "basic"])
def test_many_tiles_beside_each_other(kind: str, poisoned: None) -> None:
    """57 x 55: five by four tiles, of which the last ones are a column and 13 columns narrower."""
    hold(lambda: run(KINDS[kind](1, 57, 55, "float16"), exact=True), exact=True)


@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_the_output_nothing_is_written(kind: str) -> None:
    call = KINDS[kind](2, 9, 17, "float16")
    out, unchanged = guarded(call.spec.output_shape, torch.float16, "cpu", "nhwc")
    wide = out.permute(0, 2, 3, 1)
    assert wide.stride(3) == 1 and wide.storage_offset() % 8  # no whole vectors: computed elsewhere and copied
    hold(lambda: run(call, out=out))
    unchanged()
    whole = torch.full((4, 9, 17, call.spec.output_shape[1] + 16), 777.0, dtype=torch.float16)
    inside = whole[1:3, :, :, 8:-8]
    hold(lambda: run(call, out=inside.permute(0, 3, 1, 2)))
    inside.fill_(777.0)
    assert (whole == 777.0).all()


def test_operands_in_other_orders() -> None:
    """An input and an output that are contiguous as NCHW, and no image at all."""
    call = KINDS["64"](1, 5, 6, "float16")
    given = {
        name: x.contiguous() for name, x in operands(Layer("", call), torch.float16, torch.device("cpu"), 0).items()
    }
    hold(lambda: block(call.spec, given, backend="cuda"))
    for name in ("expand.bias", "window.weight"):  # two bytes beside a vector's place
        given[name] = torch.cat([torch.zeros(1).half(), given[name].flatten()])[1:].view(given[name].shape)
    hold(lambda: block(call.spec, given, backend="cuda"))
    assert run(KINDS["64"](0, 5, 6, "float16")).shape == (0, 256, 5, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_threads_does_not_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_reversed(KINDS[kind](1, 15, 16, "float16"), monkeypatch)


# ---- faults planted in the code

FAULTS = {
    "a tap at a tile's right edge": ("chain.cuh", "min(x + lane % 16, last)", "min(x + lane % 16, last - (x == 2 ? 2 : 0))"),
    "the halo's last row": ("bottleneck.cu", "from, inside(p0 - 1 + row, w))", "from, row <= TH && inside(p0 - 1 + row, w))"),
    "the window's padding": ("chain.cuh", "HALO && !inside(p0 - 1 + y, q0 - 1 + column)", "false"),
    "the swizzle of one reader": ("chain.cuh", "row + j * 8, 2 * k + lane / 8 % 2", "row + j * 8, 2 * k + lane / 8 % 2 ^ 1"),
    "a step that has not come": ("chain.cuh", "wait_copies<STAGES - 2>()", "wait_copies<STAGES - 1>()"),
    "the shortcut's column": ("bottleneck.cu", "first_w + half * 8, int(p.W) - 1", "first_w + half * 8 + 1, int(p.W) - 1"),
}  # fmt: skip


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the kernels that a test may change, in the place of kernels/."""
    with copied_kernels(tmp_path, monkeypatch, "bottleneck") as root:
        yield root / "bottleneck"


@pytest.mark.parametrize("fault", share([*FAULTS], 2))
def test_a_planted_fault_is_found(fault: str, planted: Path) -> None:
    name, right, wrong = FAULTS[fault]
    plant(planted / name, right, wrong)
    with override(BOTTLENECKS[64][1]), pytest.raises(AssertionError, match="bottleneck"):
        hold(lambda: run(KINDS["64"](1, 9, 17, "float16")))


# ---- choices


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_fit_their_gpu(kind: str, target: str) -> None:
    """Small batches take low tiles, of which more SMs have one; what is chosen fits in shared memory as often as it says."""
    limits, heights = TARGETS[target], []
    for N in (1, 32):
        call = replace(KINDS[kind](N, *(28, 28) if kind == "128" else (56, 56), "float16"), backend="cuda")
        with noting() as considered:
            (launch,) = launches(call, *meta(call), limits)
        assert launch.shared <= limits.shared and considered
        assert int(launch.template[-1]) * (launch.shared + 1024) <= limits.shared + 1024 or launch.template[-1] == "1"
        heights.append(int(launch.template[1 if kind == "basic" else 2]))
    assert heights[0] < heights[1]


# Rows and columns of the network's maps, and whether an H100 measured the block quicker than its layers (docs/fusion.md).
MEASURED = {"64": (56, True), "64-downsample": (56, True), "128": (28, False)}


@pytest.mark.parametrize("kind", MEASURED)
@pytest.mark.parametrize("N", [1, 32, 128])
def test_the_model_chooses_as_an_h100_measured(kind: str, N: int) -> None:
    size, quicker = MEASURED[kind]
    call = KINDS[kind](N, size, size, "float16")
    apart = sum(seconds(Call(p.op, p.spec, p.epilogue, dtype="float16"), gpu("h100-sxm")) for p in call.spec.parts)
    assert (seconds(call, gpu("h100-sxm")) < apart) == quicker


def test_too_large_an_image_is_refused() -> None:
    call = replace(bottleneck((1, 256, 3000, 3000), 64, 256), backend="cuda")
    with pytest.raises(ShapeError, match="bottleneck"):
        launches(call, *meta(call), TARGETS["sm_90"])


def test_resnets_are_blocks() -> None:
    """Two of the first stage's blocks, the first with its downsampling, and the second stage's but the first, whose stride is 2."""
    for name, pattern, paths in share(
        (
            ("resnet50", "bottleneck", ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer2.3"]),
            ("resnet18", "basic_block", ["layer1.0", "layer1.1"]),
        )
    ):
        plan = convatlas.compile(
            nets.create(name, seed=0).half(), torch.zeros(1, 3, 32, 32).half(), backend="numpy", fuse={pattern}
        )
        found = [layer.path.rpartition(".")[0] for layer in plan.layers if layer.op == "block"]
        assert found == paths
        assert {layer.call.spec.pattern for layer in plan.layers if layer.op == "block"} == {pattern}
        assert next(len(layer.parts) for layer in plan.layers if layer.op == "block") == (
            4 if name == "resnet50" else 2
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", share(["resnet50", "resnet18"]))
def test_a_network_with_its_blocks_is_right(name: str) -> None:
    assert verify(name, size=32, dtype="float16", backend="cuda", plan=True, fuse={"bottleneck", "basic_block"}).ok


def test_what_no_kernel_takes() -> None:
    takes = room("bottleneck", "takes")
    assert not takes(bottleneck((1, 1024, 14, 14), 256, 1024).spec, "float16")  # 256 channels between
    assert not takes(bottleneck((1, 256, 14, 14), 64, 256).spec, "float32")
    assert not takes(
        bottleneck((1, 128, 14, 14), 64, 256, True).spec, "float16"
    )  # a downsampling of other than 64 channels
    assert not takes(basic_block((1, 128, 28, 28)).spec, "float16")
    spec = bottleneck((1, 256, 14, 14), 64, 256).spec
    *others, last = spec.parts
    assert not takes(
        replace(spec, parts=(*others, replace(last, reads=last.reads[:1]))), "float16"
    )  # without the shortcut


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("kind", "tile", "size", "dtype"), CELLS, ids=lambda x: f"{x.height}" if isinstance(x, Tile) else str(x)
)
def test_every_tile_on_a_gpu(kind: str, tile: Tile, size: tuple[int, int, int], dtype: str, poisoned: None) -> None:
    if tile.shared > TARGETS["sm_80"].shared and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("more shared memory than this GPU has")
    for N, H, W in (size, (3, 57, 55)):
        call = KINDS[kind](N, H, W, dtype)
        with override(tile):
            hold_both(call, "cuda")

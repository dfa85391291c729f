"""Inverted residual and depthwise separable blocks as one kernel: held to their parts on every tile, and with faults."""

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

from convatlas.call import Call
from convatlas.codegen.block_calls import depthwise_separable, inverted_residual
from convatlas.errors import ShapeError
from convatlas.kernels.backend import launches, room
from convatlas.kernels.common.override import override
from convatlas.kernels.common.target import TARGETS
from convatlas.kernels.inverted_residual.configs import SLICES, TILES, Config
from convatlas.ops.block import block
from convatlas.specs import Conv2dSpec
from convatlas.study.layer import Layer
from convatlas.verify.single import operands

# Sizes that tiles divide, and those whose last tiles reach over both edges; slices that divide the channels, and those that do not.
KINDS = {
    "stride-1": lambda dtype: inverted_residual((2, 24, 19, 17), 144, 24, residual=True, dtype=dtype),
    "stride-2": lambda dtype: inverted_residual((1, 16, 33, 18), 96, 24, stride=2, dtype=dtype),
    "5x5": lambda dtype: inverted_residual((1, 40, 16, 21), 80, 40, 5, residual=True, dtype=dtype),
    "5x5-stride-2": lambda dtype: inverted_residual((1, 24, 18, 30), 48, 40, 5, 2, dtype=dtype),
    "relu": lambda dtype: inverted_residual((1, 64, 9, 16), 64, 64, residual=True, activation="relu", dtype=dtype),
    "separable": lambda dtype: depthwise_separable((2, 40, 17, 19), 48, dtype=dtype),
    "separable-stride-2": lambda dtype: depthwise_separable((1, 64, 20, 34), 64, 3, 2, "relu6", None, dtype=dtype),
    "separable-5x5": lambda dtype: depthwise_separable((1, 24, 11, 12), 16, 5, dtype=dtype),
}


def config(call: Call, tile: tuple[int, int, int], CE: int) -> Config:
    d, p, expand = (call.spec.part(name) for name in ("depthwise", "project", "expand"))
    steps = -(-expand.spec.C // 16) if expand else 0
    return Config(d.spec.R, d.spec.stride[0], *tile, CE, steps, -(-p.spec.K // 16) * 2)


CELLS = [
    (kind, tile, SLICES[(k + i) % 2], ("float16", "bfloat16")[(k + i // 2) % 2])
    for k, kind in enumerate(KINDS)
    for i, tile in enumerate(TILES)
]


def on_tile(kind: str, tile: tuple[int, int, int], CE: int, dtype: str, device: str = "cpu") -> None:
    call = KINDS[kind](dtype)
    assert room(call.spec.pattern, "takes")(call.spec, dtype)
    chosen = config(call, tile, CE)
    if not chosen.resident(TARGETS["sm_90"]):
        pytest.skip("more shared memory than a block may have")
    with override(chosen):
        hold_both(call, device)


# Each kind on one of its tiles, by turns: each is a library to build. A GPU runs all of them, at the end of this file.
@pytest.mark.parametrize(("kind", "tile", "CE", "dtype"), share(CELLS, len(KINDS)))
def test_every_tile(kind: str, tile: tuple[int, int, int], CE: int, dtype: str, poisoned: None) -> None:
    on_tile(kind, tile, CE, dtype)


def test_padding_of_one_side(poisoned: None) -> None:
    """TensorFlow's SAME at stride 2, as EfficientNet-Lite has it."""
    call = inverted_residual((1, 16, 14, 15), 32, 16, 3, 2)
    expand, depthwise, project = call.spec.parts
    window = Conv2dSpec.of((1, 32, 14, 15), (32, 1, 3, 3), 2, ((0, 1), (1, 1)), 1, 32)
    parts = (
        expand,
        replace(depthwise, spec=window),
        replace(project, spec=Conv2dSpec.of(window.output_shape, (16, 32, 1, 1))),
    )
    hold(lambda: run(replace(call, spec=replace(call.spec, parts=parts))))


@pytest.mark.parametrize("kind", ["stride-1", "separable"])
def test_outside_of_the_output_nothing_is_written(kind: str) -> None:
    call = KINDS[kind]("float16")
    out, unchanged = guarded(call.spec.output_shape, torch.float16, "cpu", "nhwc")
    hold(lambda: run(call, out=out))
    unchanged()
    N, K, P, Q = call.spec.output_shape
    whole = torch.full((N, P, Q, K + 16), 777.0, dtype=torch.float16)
    inside = whole[:, :, :, 8:-8]
    hold(lambda: run(call, out=inside.permute(0, 3, 1, 2)))
    inside.fill_(777.0)
    assert (whole == 777.0).all()


def test_operands_in_other_orders() -> None:
    """An input that is contiguous as NCHW, weights beside a vector's place, and no image at all."""
    call = KINDS["stride-1"]("float16")
    drawn = operands(Layer("", call), torch.float16, torch.device("cpu"), 0)
    given = {name: x.contiguous() for name, x in drawn.items()}
    for name in ("expand.weight", "depthwise.weight", "project.weight"):
        given[name] = torch.cat([torch.zeros(1).half(), given[name].flatten()])[1:].view(given[name].shape)
    hold(lambda: block(call.spec, given, backend="cuda"))
    assert run(inverted_residual((0, 16, 9, 9), 32, 16)).shape == (0, 16, 9, 9)


@pytest.mark.parametrize("kind", ["separable", "relu"])
def test_an_infinity_stays_in_its_channel(kind: str) -> None:
    """Two channels of an MMA share a column of zeros: an infinity times such a zero must not become the other's NaN."""
    call = KINDS[kind]("float16")
    given = operands(Layer("", call), torch.float16, torch.device("cpu"), 0)
    given["input"][0, 3, 4, 5] = float("inf")
    hold(lambda: block(call.spec, given, backend="cuda"))
    given["input"][0, 3, 4, 5] = float("nan")
    hold(lambda: block(call.spec, given, backend="cuda"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_threads_does_not_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_reversed(KINDS[kind]("float16"), monkeypatch)


FAULTS = {
    "a tap of the second row": ("first_tap(pair) + R :", "first_tap(pair) :"),
    "the halo's last row": ("return slot < SLOTS &&", "return slot < SLOTS - WW &&"),
    "padding that is no zero": ("if (inside >> (2 * i + half) & 1)", "if (true)"),
    "a slice that has not come": ("wait_copies<0>();\n            __syncthreads();  //", "__syncthreads();  //"),
    "the last filters": ("if (n * 8 >= int(p.K)) break;", "if (n * 8 + 8 >= int(p.K)) break;"),
    "the shortcut's column": ("h * p.res_h + w * p.res_w", "h * p.res_h + (w ^ 1) * p.res_w"),
    "the neighbouring channel's tap": ("(c + g) * WORDS", "(c + (g ^ 1)) * WORDS"),
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the kernel that a test may change, in the place of kernels/."""
    with copied_kernels(tmp_path, monkeypatch, "inverted_residual") as root:
        yield root / "inverted_residual/inverted_residual.cu"


@pytest.mark.parametrize("fault", share([*FAULTS], 3))
def test_a_planted_fault_is_found(fault: str, planted: Path) -> None:
    right, wrong = FAULTS[fault]
    plant(planted, right, wrong)
    with pytest.raises(AssertionError, match="inverted_residual"):
        hold(lambda: run(KINDS["stride-1"]("float16")))


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_what_is_chosen_fits(target: str) -> None:
    gpu = TARGETS[target]
    for N in (1, 32):
        call = replace(inverted_residual((N, 24, 56, 56), 144, 24, residual=True), backend="cuda")
        (launch,) = launches(call, *meta(call), gpu)
        assert launch.shared <= gpu.shared
        assert int(launch.template[-1]) * (launch.shared + 1024) <= gpu.shared + 1024


def test_what_no_kernel_takes() -> None:
    takes = room("inverted_residual", "takes")
    assert not takes(inverted_residual((1, 16, 9, 9), 32, 400).spec, "float16")  # sums of 400 filters
    assert not takes(inverted_residual((1, 16, 9, 9), 32, 16).spec, "float32")
    assert not takes(inverted_residual((1, 12, 9, 9), 32, 16).spec, "float16")  # half a vector of channels
    assert not takes(inverted_residual((1, 16, 9, 9), 32, 16, 7).spec, "float16")
    assert not takes(inverted_residual((1, 16, 9, 9), 32, 16, activation="silu").spec, "float16")
    call = replace(inverted_residual((1, 16, 9, 9), 32, 640), backend="cuda")
    with pytest.raises(ShapeError, match="does not fit"):
        launches(call, *meta(call), TARGETS["sm_90"])


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "tile", "CE", "dtype"), CELLS)
def test_every_tile_on_a_gpu(kind: str, tile: tuple[int, int, int], CE: int, dtype: str, poisoned: None) -> None:
    on_tile(kind, tile, CE, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["separable", "relu"])
def test_an_infinity_stays_in_its_channel_on_a_gpu(kind: str) -> None:
    call = KINDS[kind]("float16")
    given = operands(Layer("", call), torch.float16, torch.device("cuda"), 0)
    given["input"][0, 3, 4, 5] = float("inf")
    hold(lambda: block(call.spec, given, backend="cuda"))

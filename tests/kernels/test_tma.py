"""The TMA kernels: what they take, their boxes, and their results with a GPU's tiles, in the interpreter."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
from kernel_cases import Case, conv, hold, run_convolution

import convatlas
from convatlas.call import Call
from convatlas.kernels import backend as triton_backend
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.target import TARGETS
from convatlas.kernels.conv2d import configs_tma as configs
from convatlas.kernels.conv2d import launch_triton_rows as rows
from convatlas.kernels.conv2d import launch_triton_tma as tma
from convatlas.kernels.conv2d.configs_tma import box, tma_config
from convatlas.specs import Conv2dSpec, Epilogue

H100 = TARGETS["sm_90"]
WINDOWS = [
    conv("3x3-boxes-over-images", (5, 64, 7, 7), (64, 64, 3, 3), padding=1, activation="relu"),
    conv("3x3-residual", (2, 64, 9, 10), (72, 64, 3, 3), padding=1, residual=True, activation="relu"),
    conv("3x3-stride-2", (2, 32, 14, 12), (64, 32, 3, 3), padding=1, stride=2),
    conv("5x3-stride-3-by-2", (2, 64, 9, 8), (64, 64, 5, 3), padding=(2, 1), stride=(3, 2)),
    conv("dilated", (1, 64, 12, 11), (80, 64, 3, 3), padding=2, dilation=2),
    conv("asymmetric", (1, 32, 8, 8), (64, 32, 3, 3), padding=((0, 1), (2, 0)), stride=2),
    conv("wide-rows", (1, 64, 2, 140), (64, 64, 3, 3), padding=1),
    conv("1x1-strided", (2, 64, 8, 8), (128, 64, 1, 1), stride=2),
    conv("1x1-flat-residual", (3, 96, 5, 7), (64, 96, 1, 1), residual=True, activation="relu6"),
    conv("split", (1, 512, 5, 5), (64, 512, 3, 3), padding=1, residual=True, activation="relu"),
]
STEMS = [
    conv("7x7-stride-2", (2, 3, 29, 27), (64, 3, 7, 7), stride=2, padding=3, activation="relu"),
    conv("11x11-stride-4", (1, 3, 35, 35), (40, 3, 11, 11), stride=4, padding=2, residual=True),
    conv("7x7-one-channel", (1, 1, 16, 19), (70, 1, 7, 7), padding=((3, 2), (1, 3))),
    conv("7x7-eight-channels", (1, 7, 12, 12), (33, 7, 7, 7), stride=(1, 2), padding=3),
]


@pytest.fixture
def on_h100(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Launches are those of an H100 on which no work is too small; the names of the kernels that run."""
    ran: list[str] = []
    monkeypatch.setattr(tma, "FLOPS", 0)
    monkeypatch.setattr(rows, "PIXELS", 0)
    monkeypatch.setattr(triton_backend, "current", lambda x, backend: replace(H100, interpreted=True))
    launcher = triton_backend.launcher

    def named(problem: Problem) -> list:
        launches = launcher("triton", problem.op)(problem)
        ran.extend(each.kernel.__name__ for each in launches)
        return launches

    monkeypatch.setattr(triton_backend, "launcher", lambda backend, op: named)
    return ran


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_windows(case: Case, dtype: str, on_h100: list[str], poisoned: None) -> None:
    hold(lambda: run_convolution(case, dtype, "cpu", "nhwc", "normal", "triton"))
    assert on_h100[0] == "conv2d_tma_kernel" and (len(on_h100) == 2) == (case.id == "split")


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "case",
    [
        *(c for c in WINDOWS if c.id in {"3x3-boxes-over-images", "3x3-residual", "dilated", "wide-rows"}),
        *(c for c in WINDOWS if c.id.startswith("1x1")),
        conv("3x3-stride-2-tiles", (3, 32, 24, 20), (96, 32, 3, 3), padding=1, stride=2),
    ],
    ids=str,
)
def test_programs_that_take_tile_after_tile(
    case: Case, on_h100: list[str], poisoned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where tiles are more than the programs that the SMs hold: here one SM, and one program on it."""
    monkeypatch.setattr(configs, "PERSISTENT", ((64, 64, 4, 4, 1), (128, 64, 4, 4, 1)))
    monkeypatch.setattr(triton_backend, "current", lambda x, backend: replace(H100, interpreted=True, sms=1))
    hold(lambda: run_convolution(case, "float16", "cpu", "nhwc", "normal", "triton"))
    spec = Conv2dSpec.of(
        case.input,
        case.weight,
        **{k: case.arguments[k] for k in ("padding", "stride", "dilation") if k in case.arguments},
    )
    config = tma_config(spec, "float16", case.residual, replace(H100, sms=1))
    assert config.RESIDENT == 1 and on_h100 == ["conv2d_tma_kernel"]


@pytest.mark.interpreter
@pytest.mark.parametrize("form", ["nhwc", "nchw"])
@pytest.mark.parametrize("case", STEMS, ids=str)
def test_stems(case: Case, form: str, on_h100: list[str], poisoned: None) -> None:
    hold(lambda: run_convolution(case, "float16", "cpu", form, "normal", "triton"))
    assert on_h100 == ["stem_pack_kernel", "conv2d_rows_kernel"]


@pytest.mark.interpreter
@pytest.mark.parametrize("case", [WINDOWS[0], WINDOWS[2], WINDOWS[8], STEMS[0]], ids=str)
def test_float16_is_exact_on_small_integers(case: Case, on_h100: list[str], poisoned: None) -> None:
    hold(lambda: run_convolution(case, "float16", "cpu", "nhwc", "integers", "triton"))
    assert on_h100


@pytest.mark.interpreter
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("case", [WINDOWS[0], STEMS[0]], ids=str)
def test_nan_and_infinity_stay_in_their_windows(case: Case, value: float, on_h100: list[str]) -> None:
    """A packed row has columns beyond the window, with zero weights: an infinity there must not become a NaN."""
    x = torch.randn(case.input)
    x[0, 0, 3, 3] = value
    w, arguments = torch.rand(case.weight) + 0.1, {k: v for k, v in case.arguments.items() if k != "activation"}
    expected = torch.nn.functional.conv2d(x, w, **arguments)
    last = {"memory_format": torch.channels_last}
    got = convatlas.conv2d(x.half().contiguous(**last), w.half().contiguous(**last), **arguments, backend="triton")
    assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.isinf(), expected.isinf())
    assert on_h100


@pytest.mark.parametrize("N, P, Q", [(32, 7, 7), (1, 14, 14), (32, 28, 28), (3, 5, 200), (1, 1, 4096), (2, 1, 1)])
@pytest.mark.parametrize("BM", [64, 128, 256])
def test_boxes_are_whole_and_waste_least(N: int, P: int, Q: int, BM: int) -> None:
    def programs(TN: int, TH: int, TW: int) -> int:
        return -(-N // TN) * -(-P // TH) * -(-Q // TW)

    chosen = box(N, P, Q, BM)
    assert prod(chosen) == BM
    powers = [1 << i for i in range(9)]
    every = [(a, b, c) for a in powers for b in powers for c in powers if a * b * c == BM]
    assert programs(*chosen) == min(programs(*each) for each in every)


def launched(case: tuple, dtype: str = "float16", arch: str = "sm_90", **arguments: object) -> str:
    spec = Conv2dSpec.of(*case, **arguments)
    make = {"dtype": getattr(torch, dtype), "device": "meta"}
    last = torch.channels_last
    tensors = {
        "input": torch.empty(spec.input_shape, **make, memory_format=last),
        "weight": torch.empty(spec.weight_shape, **make, memory_format=last),
    }
    out = torch.empty(spec.output_shape, **make, memory_format=last)
    problem = Problem.of(Call("conv2d", spec, Epilogue(), dtype=dtype), tensors, out, TARGETS[arch])
    return triton_backend.launcher("triton", "conv2d")(problem)[0].kernel.__name__


BIG, FILTERS = (32, 64, 56, 56), (64, 64, 3, 3)


def test_what_it_takes() -> None:
    assert launched((BIG, FILTERS), padding=1) == "conv2d_tma_kernel"
    assert launched((BIG, FILTERS), padding=1, arch="sm_100") == "conv2d_tma_kernel"
    assert launched(((32, 64, 56, 56), (256, 64, 1, 1))) == "conv2d_tma_kernel"
    assert launched(((1, 3, 224, 224), (64, 3, 7, 7)), stride=2, padding=3) == "stem_pack_kernel"


@pytest.mark.parametrize(
    "case, arguments, kernel",
    [
        ((BIG, FILTERS), {"padding": 1, "arch": "sm_80"}, "conv2d_gather_kernel"),  # no copy engine
        (((1, 64, 14, 14), FILTERS), {"padding": 1}, "conv2d_gather_kernel"),  # too little work
        (((32, 48, 56, 56), (64, 48, 3, 3)), {"padding": 1}, "conv2d_gather_kernel"),  # no whole steps of channels
        (((32, 64, 56, 57), FILTERS), {"padding": 1, "stride": 2}, "conv2d_gather_kernel"),  # an odd width
        ((BIG, (32, 64, 3, 3)), {"padding": 1}, "conv2d_gather_kernel"),  # half of a warpgroup's rows
        ((BIG, (64, 32, 3, 3)), {"padding": 1, "groups": 2}, "conv2d_gather_kernel"),
        (((32, 3, 224, 224), (64, 3, 3, 3)), {"padding": 1}, "conv2d_stem_kernel"),  # a small window
    ],
)
def test_what_it_leaves(case: tuple, arguments: dict, kernel: str) -> None:
    assert launched(case, **arguments) == kernel


@pytest.mark.parametrize("precision, kernel", [("tf32", "conv2d_tma_kernel"), ("ieee", "conv2d_gather_kernel")])
def test_float32_needs_tf32(precision: str, kernel: str) -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = precision
    try:
        assert launched((BIG, FILTERS), dtype="float32", padding=1) == kernel
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(128, 512, 7, 7), (1, 64, 224, 224), (32, 1024, 14, 14)], ids=str)
def test_configs_fit_the_gpu(shape: tuple, residual: bool) -> None:
    spec = Conv2dSpec.of(shape, (512, shape[1], 3, 3), padding=1)
    for arch in ("sm_90", "sm_100"):
        c = tma_config(spec, "float16", residual, TARGETS[arch])
        BM = c.TN * c.TH * c.TW
        assert (BM + c.BN) * c.BK * 2 * c.num_stages < TARGETS[arch].shared
        assert BM * c.BN <= (64 if residual else 128) * 32 * c.num_warps
        assert 9 * spec.C // c.BK % c.SPLIT == 0

"""The gradients of a convolution against the reference, by the error bound, with poisoned and guarded outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_cases import CONVOLUTIONS, DTYPES, Case, conv, guarded, hold, layout, random
from rotation import with_ways
from torch import Tensor

import convatlas
from convatlas.bench.cases import gradients_of
from convatlas.call import Call
from convatlas.codegen.inventory import launches_of
from convatlas.kernels import backend as kernels
from convatlas.kernels.common.override import override
from convatlas.kernels.common.target import TARGETS
from convatlas.kernels.weight_grad.configs import CopyConfig
from convatlas.ops.backend_numpy import as_array
from convatlas.reference.error_bound import check
from convatlas.reference.truth import truth
from convatlas.specs import Conv2dSpec, Conv2dWeightGradSpec
from convatlas.study.layer import Layer
from convatlas.verify.on_device import Judge
from convatlas.verify.single import call as run_layer
from convatlas.verify.single import operands as drawn

BACKENDS = ["triton", "cuda"]
FORMS = [("float32", "nhwc"), ("float16", "nchw"), ("bfloat16", "nhwc"), ("float16", "nhwc"), ("float32", "nchw")]
# Sixteen images and 64 channels: what Triton's TMA kernel takes where it can run.
COPIED = [
    conv("tma-3x3", (17, 64, 6, 5), (72, 64, 3, 3), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=(1, 2)),
    conv("tma-pointwise", (2, 72, 5, 9), (64, 72, 1, 1)),
    conv("tma-1x1-strided", (16, 64, 5, 4), (64, 64, 1, 1), stride=2),
]
# Every case in one dtype and format, by turns over the list: the arithmetic of all is the same.
CELLS = [(case, *FORMS[i % len(FORMS)]) for i, case in enumerate(CONVOLUTIONS)]
# Reductions long enough for a GPU's launches to split them, and channels that fill its tiles.
SPLIT = [
    conv("dense-split", (4, 32, 14, 14), (24, 32, 3, 3), padding=1),
    conv("pointwise-split", (8, 32, 12, 12), (72, 32, 1, 1)),
    conv("stem-split", (4, 3, 64, 40), (32, 3, 3, 3), stride=2, padding=1),
    conv("grouped-split", (4, 64, 16, 16), (64, 4, 3, 3), padding=1, groups=16),
    conv("depthwise-split", (4, 32, 16, 16), (32, 1, 3, 3), padding=1, groups=32),
]


def spec_of(case: Case) -> Conv2dSpec:
    geometry = {k: v for k, v in case.arguments.items() if k in ("stride", "padding", "dilation", "groups")}
    return Conv2dSpec.of(case.input, case.weight, **geometry)


def weight_call(case: Case) -> Call:
    f = spec_of(case)
    spec = Conv2dWeightGradSpec.of(f.output_shape, f.input_shape, f.weight_shape, **f.arguments)
    return Call("conv2d_weight_grad", spec, params={"bias_grad": True})


def operands(case: Case, dtype: str, device: str, form: str, data: str) -> tuple[Tensor, Tensor, Tensor]:
    """x, w and the gradient of the output; of normal numbers w is scaled so that float16 does not overflow."""
    f = spec_of(case)
    shapes = f.input_shape, f.weight_shape, f.output_shape
    x, w, dy = (random(shape, DTYPES[dtype], device, data, seed) for seed, shape in enumerate(shapes))
    if data == "normal":
        w = w * (2.0 / f.reduction) ** 0.5
    return layout(x, form), layout(w, "nchw" if form == "sliced" else form), layout(dy, form)


def input_grad(
    case: Case, dtype: str, device: str, form: str, data: str, backend: str, out: Tensor | None = None
) -> Tensor:
    x, w, dy = operands(case, dtype, device, form, data)
    return convatlas.conv2d_input_grad(dy, w, x.shape, **spec_of(case).arguments, out=out, backend=backend)


def weight_grad(
    case: Case, dtype: str, device: str, form: str, data: str, backend: str, **rest
) -> tuple[Tensor, Tensor]:
    x, w, dy = operands(case, dtype, device, form, data)
    return convatlas.conv2d_weight_grad(dy, x, w.shape, **spec_of(case).arguments, **rest, backend=backend)


def hold_bias(case: Case, dtype: str, device: str, form: str, data: str, db: Tensor, exact: bool = False) -> None:
    """The bias's gradient is the weight's of a 1x1 window on an image of ones, and is held to that one's bound."""
    dy = operands(case, dtype, device, form, data)[2]
    N, K, P, Q = dy.shape
    spec = Conv2dWeightGradSpec.of(tuple(dy.shape), (N, 1, P, Q), (K, 1, 1, 1))
    expected = truth("conv2d_weight_grad", spec, None, {"grad_output": as_array(dy), "input": np.ones((N, 1, P, Q))})
    # Its terms are added one by one, not multiplied: no tensor core cuts them off.
    report = check(as_array(db)[:, None, None, None], replace(expected, products=False), dtype=dtype, exact=exact)
    assert report.ok, report.detail


BAD = [float("nan"), float("inf"), float("-inf")]
PIXELS = [case for case in CONVOLUTIONS if case.input[0] and case.input[2] > 3]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case, dtype, form", CELLS, ids=lambda cell: str(cell))
def test_within_the_error_bound(case: Case, dtype: str, form: str, backend: str, device: str, poisoned: None) -> None:
    call = hold(lambda: input_grad(case, dtype, device, form, "normal", backend))
    assert (call.op, call.backend, call.dtype) == ("conv2d_input_grad", backend, dtype)
    found: list[tuple[Tensor, Tensor]] = []
    call = hold(lambda: found.append(weight_grad(case, dtype, device, form, "normal", backend, bias_grad=True)))
    assert (call.op, call.backend, call.dtype) == ("conv2d_weight_grad", backend, dtype)
    hold_bias(case, dtype, device, form, "normal", found[0][1])


@pytest.mark.interpreter
@pytest.mark.parametrize("arch", [0, 90])
@pytest.mark.parametrize("case", COPIED, ids=str)
def test_by_the_copy_engine(case: Case, arch: int, monkeypatch: pytest.MonkeyPatch, poisoned: None) -> None:
    """Boxes of images, also behind the last and outside of the image; with the interpreter's tiles and with a GPU's."""
    target = replace(TARGETS["sm_90" if arch else "interpreter"], interpreted=True)
    monkeypatch.setattr(kernels, "current", lambda x, backend: target)
    arguments = case, "float16", "cpu", "nhwc", "integers"
    found: list[tuple[Tensor, Tensor]] = []
    with override(CopyConfig()):
        hold(lambda: found.append(weight_grad(*arguments, "triton", bias_grad=True)), exact=True)
        launched = launches_of(weight_call(case), "float16", target)[0]
    hold_bias(*arguments, found[0][1], exact=True)
    assert launched.kernel.__name__ == "weight_grad_tma_kernel"
    unasked = launches_of(weight_call(case), "float16", TARGETS["sm_90"])[0]
    assert unasked.kernel.__name__ == "weight_grad_kernel", "a GPU takes the kernel that failed there"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [*CONVOLUTIONS[::3], *COPIED[:1]], ids=str)
def test_exact_on_small_integers(case: Case, backend: str, device: str, poisoned: None) -> None:
    hold(lambda: input_grad(case, "float16", device, "nhwc", "integers", backend), exact=True)
    hold(lambda: weight_grad(case, "float16", device, "nhwc", "integers", backend), exact=True)


@pytest.mark.interpreter
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case, target", with_ways(SPLIT, ["sm_80", "sm_90"]), ids=str)
def test_a_gpus_launches_split_and_add_exactly(
    case: Case, backend: str, target: str, monkeypatch: pytest.MonkeyPatch, poisoned: None
) -> None:
    """The parts are float32: sums of integers that half precision would round are exact, and so is the bias's."""
    interpreted = replace(TARGETS[target], interpreted=backend == "triton")
    monkeypatch.setattr(kernels, "current", lambda x, backend: interpreted)
    hold(lambda: input_grad(case, "float16", "cpu", "nhwc", "integers", backend), exact=True)
    found: list[tuple[Tensor, Tensor]] = []
    arguments = case, "float16", "cpu", "nhwc", "integers"
    hold(lambda: found.append(weight_grad(*arguments, backend, bias_grad=True)), exact=True)
    hold_bias(*arguments, found[0][1], exact=True)
    assert len(launches_of(weight_call(case), "float16", TARGETS[target], backend)) > 1, "nothing was split"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "case, kind", with_ways([*CONVOLUTIONS[1::8], *SPLIT[:1]], ["nhwc", "nchw"], on_gpu_all=True), ids=str
)
def test_out_slices_and_strided_operands(case: Case, kind: str, backend: str, device: str) -> None:
    for gradient, run in ((case.input, input_grad), (case.weight, weight_grad)):
        out, unchanged = guarded(gradient, torch.float16, device, kind)
        hold(lambda run=run, out=out: run(case, "float16", device, "sliced", "normal", backend, out=out))
        unchanged()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case, value", with_ways(PIXELS[::6], BAD, on_gpu_all=True), ids=str)
def test_nan_and_infinity_go_where_torch_sends_them(case: Case, value: float, backend: str, device: str) -> None:
    """One bad element of the gradient, or of the image, reaches what one of its products is added to, and nothing else."""
    f = spec_of(case)
    (top, bottom), (left, right) = f.padding
    for bad in ("x", "dy"):
        x, w, dy = operands(case, "float32", "cpu", "nchw", "normal")
        at = x if bad == "x" else dy
        at[0, at.shape[1] // 2, at.shape[2] // 2, at.shape[3] // 2] = value
        wide = [t.double().requires_grad_() for t in (x, w, torch.zeros(f.K))]
        y = F.conv2d(F.pad(wide[0], (left, right, top, bottom)), *wide[1:], f.stride, 0, f.dilation, f.groups)
        expected = torch.autograd.grad(y, wide, dy.double())
        x, w, dy = (t.to(device) for t in (x, w, dy))
        got = (
            convatlas.conv2d_input_grad(dy, w, x.shape, **f.arguments, backend=backend),
            *convatlas.conv2d_weight_grad(dy, x, w.shape, **f.arguments, bias_grad=True, backend=backend),
        )
        for ours, theirs in zip((t.cpu() for t in got), expected):
            for where in (torch.isnan, torch.isposinf, torch.isneginf):
                assert torch.equal(where(ours), where(theirs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SPLIT[:3], ids=str)
def test_two_runs_give_the_same_bits(case: Case, backend: str, device: str) -> None:
    x, w, dy = operands(case, "float16", device, "nhwc", "normal")
    geometry = spec_of(case).arguments

    def run() -> list[Tensor]:
        dw, db = convatlas.conv2d_weight_grad(dy, x, w.shape, **geometry, bias_grad=True, backend=backend)
        return [convatlas.conv2d_input_grad(dy, w, x.shape, **geometry, backend=backend), dw, db]

    assert all(torch.equal(*pair) for pair in zip(run(), run()))


# Of ResNet-50 and MobileNetV2: sizes at which a GPU's launches split, pipeline and fill their tiles.
REAL = {
    "3x3": ((32, 64, 56, 56), (64, 64, 3, 3), 1, 1),
    "3x3-stride-2": ((32, 128, 56, 56), (128, 128, 3, 3), 2, 1),
    "1x1": ((32, 64, 56, 56), (256, 64, 1, 1)),
    "1x1-deep": ((32, 1024, 14, 14), (256, 1024, 1, 1)),
    "1x1-stride-2": ((32, 256, 56, 56), (512, 256, 1, 1), 2),
    "stem": ((32, 3, 224, 224), (64, 3, 7, 7), 2, 3),
    "depthwise": ((32, 144, 56, 56), (144, 1, 3, 3), 2, 1, 1, 144),
    "grouped": ((32, 128, 56, 56), (128, 4, 3, 3), 1, 1, 1, 32),
}


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", REAL)
def test_real_layers_on_a_gpu(name: str, backend: str) -> None:
    """Twice each, so that what was prepared is replayed, and held to float32 by the law of the bound. Twins: all above."""
    for op, spec in gradients_of(Conv2dSpec.of(*REAL[name])).items():
        layer = Layer("", Call(op, spec))
        tensors = drawn(layer, torch.float16, torch.device("cuda"), 0, "cuda")
        judge = Judge(layer, tensors)
        with convatlas.use_backend(backend):
            first, again = (run_layer(layer, tensors) for _ in range(2))
        assert judge(first).ok, f"{op}: {judge(first)}"
        assert torch.equal(first, again), op


def test_out_and_the_biass_gradient_exclude_each_other() -> None:
    x, w, dy = operands(SPLIT[1], "float32", "cpu", "nchw", "normal")
    with pytest.raises(convatlas.ShapeError, match="out= together with bias_grad=True"):
        convatlas.conv2d_weight_grad(dy, x, w.shape, bias_grad=True, out=torch.empty_like(w))

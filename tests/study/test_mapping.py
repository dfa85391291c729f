"""map: its rows against hand-worked numbers and the specs, layers as text, and the command."""

import csv
import io
import json
from dataclasses import replace
from functools import cache
from math import ceil

import pytest
import torch
from torch import nn

from convatlas import study
from convatlas.call import Call
from convatlas.cli import main
from convatlas.codegen import resources as res
from convatlas.errors import ArgumentError, DtypeError, InputError, NetError, ShapeError
from convatlas.model.gpu import gpu
from convatlas.model.occupancy import occupancy
from convatlas.model.time import LIMITS, launch_time, waves
from convatlas.model.work import Tiling, Work
from convatlas.plan.plan import Plan, compile
from convatlas.plan.siblings import seconds
from convatlas.specs import Conv2dSpec, Epilogue
from convatlas.study.layer import Layer
from convatlas.study.written import EXAMPLES, is_layer, layer

CONV = "conv 32x64x56x56 64 3x3 s1 p1 bias relu"


@pytest.fixture(scope="module")
def one():
    return study.map(CONV, compile=False)


@pytest.fixture
def kernels_compiled(monkeypatch):
    """Every launch takes 128 registers and 64 KB, whoever asks."""
    monkeypatch.setattr(
        "convatlas.codegen.resources.resources",
        lambda tasks, progress=None: [[res.Resources(128, 65536, 0)] * 3 for _ in tasks],
    )


def test_a_layer_as_text():
    found = layer(CONV)
    assert found.spec == Conv2dSpec.of((32, 64, 56, 56), (64, 64, 3, 3), 1, 1) and found.epilogue == Epilogue(
        True, "relu"
    )
    assert layer("conv 1x64x28x28 64 3 s2x1 p1 d2 g64").spec == Conv2dSpec.of(
        (1, 64, 28, 28), (64, 1, 3, 3), (2, 1), 1, 2, 64
    )
    assert all(is_layer(text) and layer(text).spec.output_shape for text in EXAMPLES.values())
    assert not is_layer("resnet50") and not is_layer("my file.py:Net")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("cnov 32x64x56x56 64 3x3", NetError, "nearest: conv"),
        ("conv 32x64x56x56", ArgumentError, "sizes are missing, expected one like 'conv"),
        ("conv 32x64x56x56 64 3x3 stride2", ArgumentError, "'stride2', expected one like"),
        ("conv 32x64x56x56 64 99x99", ShapeError, "spans 99x99 pixels"),
        ("conv 32x64x56x56 64 3x3 g5", ArgumentError, "a multiple of the groups"),
        ("linear 32x2048", ArgumentError, "sizes are missing"),
    ],
)
def test_what_is_wrong_with_a_layer_is_said(text, error, said):
    with pytest.raises(error) as caught:
        study.map(text, compile=False)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_are_the_specs(one):
    (row,) = one.layers
    spec = layer(CONV).spec
    assert (row.flops, row.bytes) == (spec.flops, spec.bytes("float16", layer(CONV).epilogue)) == (7398752256, 25763968)
    assert row.gemm == (32 * 56 * 56, 64, 576)
    assert row.intensity == pytest.approx(spec.flops / row.bytes)
    # 25.8 MB at 3.35 TB/s are 7.69 us, 7.4 GFLOP at 989.4 TFLOP/s 7.48: bandwidth binds.
    assert (row.bound, row.binds) == (pytest.approx(25763968 / 3.35e12), "bandwidth")
    assert row.low < row.seconds < row.high and row.seconds > row.bound and row.limiter in LIMITS
    assert one.seconds == row.seconds and one.images_per_second == pytest.approx(32 / row.seconds)


def test_tiles_waves_and_waste_by_hand(kernels_compiled):
    """14 x 14 pixels of 32 images by 256 filters: tiles of an implicit GEMM."""
    (row,) = study.map("conv 32x256x14x14 256 3x3 p1", backend="cuda").layers
    main, tile = row.main, row.main.work.tile
    M, N, K = row.gemm
    assert (M, N, K) == (6272, 256, 2304)
    assert main.work.grid == ceil(M / tile.BM) * ceil(N / tile.BN) * tile.split == tile.count
    assert tile.steps * tile.BK * tile.split == K
    assert row.waste == pytest.approx(1 - M * N / (ceil(M / tile.BM) * tile.BM * ceil(N / tile.BN) * tile.BN))
    # 64 KB a block: 3 on an SM of 228; 128 registers of 128 threads: 4.
    blocks = occupancy(gpu("h100-sxm").architecture, main.work.threads, 128, 65536).blocks
    assert main.occupancy.blocks == blocks == 3
    assert main.waves == pytest.approx(main.work.grid / (3 * 132))
    assert main.idle == pytest.approx((ceil(main.waves) * 3 * 132 - main.work.grid) / (3 * 132))


def test_waves_by_hand():
    work = Work("k", "", 300, 128, 3, Tiling(128, 128, 64, 9, 1, 300), 1, 1, 1, "triton", 2)
    assert waves(work, 2, gpu("h100-sxm")) == (pytest.approx(300 / 264), pytest.approx(228 / 264))
    assert waves(work, 2, gpu("a100-80")) == (pytest.approx(300 / 216), pytest.approx(132 / 216))


def test_more_bandwidth_and_more_clock_make_it_quicker():
    work = Work("k", "", 300, 128, 3, Tiling(128, 128, 64, 9, 1, 300), 1, 1, 10**9, "triton", 2)
    h100, h200, a100 = (launch_time(work, 2, gpu(name), "float16") for name in ("h100-sxm", "h200", "a100-80"))
    assert h200.dram < h100.dram < a100.dram and h200.chip == h100.chip < a100.chip
    assert max(h100.chip, h100.dram) < h100.seconds < h100.chip + h100.dram


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_no_launch_computes_less_than_the_layer_needs(backend):
    """Every kind of layer of four networks: what tiles multiply covers the FLOPs, what is moved the compulsory bytes."""
    for net in ("resnet18", "mobilenet_v2", "googlenet", "resnext50_32x4d"):
        for row in study.map(net, backend=backend, batch=2, compile=False).layers:
            products = sum(x.work.flops for x in row.launches)
            assert not products or products >= row.flops * 0.999, row
            assert sum(x.work.moved for x in row.launches) >= row.bytes, row
            assert all(x.work.grid > 0 and x.work.threads % 32 == 0 for x in row.launches)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_phases_of_a_transposed_convolution_share_its_input(backend):
    """Four phases of 2 x 2 taps each: the FLOPs of all taps, the input and the filters moved once, outputs without a hole."""
    (row,) = study.map("conv_transpose 32x64x28x28 64 4x4 s2 p1", backend=backend, compile=False).layers
    assert len(row.launches) == 4 and row.flops == sum(x.work.flops for x in row.launches)
    assert sum(x.work.moved for x in row.launches) == row.bytes
    steps = {x.work.tile.steps * x.work.tile.BK for x in row.launches}
    assert steps == {64 * 4}
    # Stride 3 and 2 x 2 taps leave a phase empty: a first launch writes the whole output.
    (row,) = study.map("conv_transpose 4x64x8x8 32 2x2 s3", backend=backend, compile=False).layers
    elements = row.layer.spec.elements
    assert row.launches[0].work.moved == elements["output"] * 2 and len(row.launches) == 5
    assert row.bytes < sum(x.work.moved for x in row.launches) < row.bytes + elements["output"] * 2


def test_every_gpu_can_be_asked(kernels_compiled):
    from convatlas.model.gpu import names

    for name in names():
        found = study.map(CONV, gpu=name)
        assert found.gpu.name == name and 1e-6 < found.seconds < 1e-2


def test_what_cannot_be_asked():
    with pytest.raises(InputError, match=r"nearest: .*h100-sxm"):
        study.map(CONV, gpu="h100", compile=False)
    with pytest.raises(DtypeError, match="expected float16 or float32"):
        study.map(CONV, gpu="v100", dtype="bfloat16", compile=False)
    with pytest.raises(DtypeError, match="int7"):
        study.map(CONV, dtype="int7", compile=False)
    with pytest.raises(NetError, match="nearest: resnet50"):
        study.map("resnet5", compile=False)


def test_a_module_of_pytorchs():
    from torch import nn

    found = study.map(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (2, 3, 16, 16), compile=False)
    assert found.layers[0].layer.op == "conv2d" and found.batch == 2


def test_the_command_prints_what_python_returns(one, capsys):
    assert main(["map", CONV, "--no-compile", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(one.as_dict()))
    assert main(["map", CONV, "--no-compile", "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["predicted_seconds"]) == one.seconds and row["gpu"] == "h100-sxm"
    assert main(["map", CONV, "--no-compile"]) == 0
    text = capsys.readouterr().out
    assert "predicted, not measured" in text and f"{one.seconds * 1e6:.1f}" in text and "100352x64x576" in text


def test_gpus_side_by_side(capsys):
    assert main(["map", CONV, "--no-compile", "--gpu", "a100-80,h100-sxm"]) == 0
    text = capsys.readouterr().out
    assert (
        text.count("predicted, not measured") == 1
        and "no time measured on the A100 SXM4 80GB" in text
        and "images/s" in text
    )


def test_measured_ceilings_stand_in(tmp_path, capsys):
    file = tmp_path / "ceilings.json"
    rates = {"copy_bytes_per_s": 1e12, "matmul_flops_per_s": {"float16": 1e15}, "launch_seconds": 1e-6}
    file.write_text(json.dumps({"ceilings": rates}))
    assert main(["map", CONV, "--no-compile", "--json", "--ceilings", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["bound_seconds"] == pytest.approx(25763968e-12)
    file.write_text("{}")
    assert main(["map", CONV, "--no-compile", "--ceilings", str(file)]) == 2
    assert "the ceilings lack" in capsys.readouterr().err


@pytest.mark.slow
def test_resources_are_compiled_once_and_kept(tmp_path, monkeypatch):
    """From this process, which may interpret kernels; the second time no compiler is started."""
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
    relu = Layer("", Call("relu", layer("relu 2x64x8x8").spec))
    (first,) = study.map(relu, backend="triton").layers
    assert not first.note and 8 <= first.main.registers <= 64 and first.main.occupancy.blocks >= 8
    monkeypatch.setattr(res.subprocess, "Popen", None)
    (second,) = study.map(relu, backend="triton").layers
    assert second == first
    kept = next((tmp_path / "codegen").iterdir())
    kept.write_text("[{")  # half a file is compiled anew, here without a compiler
    with pytest.raises(TypeError):
        study.map(relu, backend="triton")


def test_what_does_not_compile_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "convatlas.codegen.resources.resources", lambda tasks, progress=None: ["ptxas is unwell"] * len(tasks)
    )
    (row,) = study.map(CONV).layers
    assert row.note == "ptxas is unwell" and row.main.registers is None and row.seconds > 0


@cache
def stem() -> Plan:
    """A plan of shapes alone: a first convolution with its pooling, and a layer behind."""
    with torch.device("meta"):
        layers = nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(64, 64, 1)
        net = nn.Sequential(*layers).half().eval()
    return compile(net, torch.empty(8, 3, 224, 224, dtype=torch.float16, device="meta"), fuse={"stem_pool"})


def test_a_block_of_a_plan_is_one_row_with_a_predicted_time():
    found = study.map(stem(), compile=False)
    block, behind = found.layers
    assert (found.batch, block.layer.op, block.main.work.kernel, block.backend) == (8, "block", "stem_pool", "cuda")
    assert block.bytes == block.layer.spec.bytes("float16") and behind.layer.op == "conv2d"
    assert block.seconds == seconds(replace(block.layer.call, dtype="float16"), gpu("h100-sxm"))
    assert found.as_dict()["layers"][0]["spec"] == "stem_pool 8x3x224x224 -> 64x112x112 7x7/2 -> 64x56x56 3x3/2"


def test_a_plan_is_mapped_whole(monkeypatch, capsys):
    monkeypatch.setattr("convatlas.cli.mapping.planned", lambda *given: stem())
    assert main(["map", "resnet18", "--plan", "--fuse", "stem_pool", "--no-compile", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["kernel"] == "stem_pool" and len(rows) == 2
    assert main(["map", "resnet18", "--plan", "--layer", "conv1"]) == 2
    assert "'--plan'" in capsys.readouterr().err

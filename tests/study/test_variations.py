"""What-if: other sizes of a layer, what fills the last wave; GPUs of this machine; stored traces in place of new ones."""

import csv
import io
import json
import sys
from types import SimpleNamespace

import pytest

from convatlas import study
from convatlas.cli import main
from convatlas.codegen import resources as res
from convatlas.errors import ArgumentError, InputError, ShapeError
from convatlas.model.gpu import gpu
from convatlas.model.here import present
from convatlas.specs import Conv2dSpec, LinearSpec
from convatlas.study import mapping
from convatlas.study.variations import FULL, changed, filling, sized
from convatlas.study.written import layer

CONV = "conv 32x256x14x14 256 3x3 p1 bias relu"


@pytest.fixture
def kernels_compiled(monkeypatch):
    """Every launch takes 128 registers and 64 KB, whoever asks."""
    monkeypatch.setattr(
        "convatlas.codegen.resources.resources",
        lambda tasks, progress=None: [[res.Resources(128, 65536, 0)] * 3 for _ in tasks],
    )


def test_other_sizes_of_a_layer():
    conv = layer(CONV).spec
    assert sized(conv, "channels", 96) == Conv2dSpec.of((32, 96, 14, 14), (256, 96, 3, 3), 1, 1)
    assert sized(conv, "filters", 200) == Conv2dSpec.of((32, 256, 14, 14), (200, 256, 3, 3), 1, 1)
    assert changed(layer(CONV), "batch=64,channels=96").spec == Conv2dSpec.of((64, 96, 14, 14), (256, 96, 3, 3), 1, 1)
    depthwise = layer("conv 8x32x14x14 32 3x3 p1 g32").spec
    assert sized(depthwise, "channels", 40) == Conv2dSpec.of((8, 40, 14, 14), (40, 1, 3, 3), 1, 1, 1, 40)
    assert sized(layer("linear 32x2048 1000").spec, "batch", 8) == LinearSpec.of((8, 2048), (1000, 2048))
    assert sized(layer("relu 32x64x56x56").spec, "channels", 7).output_shape == (32, 7, 56, 56)


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ("chanels=3", ArgumentError, "nearest: channels"),
        ("channels", ArgumentError, "expected one like channels=96"),
        ("channels=0", ShapeError, "at least 1"),
    ],
)
def test_what_is_no_change_is_said(wanted, error, said):
    with pytest.raises(error, match=said):
        changed(layer(CONV), wanted)
    with pytest.raises(ShapeError, match="a multiple of 4"):
        sized(layer("conv 8x32x14x14 32 3x3 p1 g4").spec, "channels", 34)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_nearest_that_fills_is_full_and_nearest(kernels_compiled, backend):
    """Each smaller distance from the given batch, tried one by one, is not full or is computed by another kernel or tile."""
    (one,) = study.map(CONV, backend=backend).layers
    found = filling(one, gpu("h100-sxm"), "float16", ["batch"])[0]
    assert found.given == 32 and (found.size is None or found.idle <= FULL)

    def full(n):
        (other,) = study.map(changed(layer(CONV), f"batch={n}"), backend=backend).layers
        same = other.main.work.config == one.main.work.config and str(other.main.work.tile) == str(one.main.work.tile)
        return same and other.main.idle <= FULL

    assert found.size is None or full(found.size)
    reach = 40 if found.size is None else abs(found.size - 32)
    nearer = [n for n in range(1, 32 + reach) if abs(n - 32) < reach]
    assert not any(full(n) for n in nearer)


def test_what_if_is_shown_beside_the_layer(kernels_compiled, capsys):
    assert main(["map", CONV, "--what-if", "channels=96", "--what-if", "batch=64"]) == 0
    text = capsys.readouterr().out
    assert "as it is" in text and "channels=96" in text and "32x96x14x14" in text and "64x256x14x14" in text
    assert "predicted, not measured" in text and "fills the last wave: batch 32" in text
    assert main(["map", CONV, "--what-if", "batch=64", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    nearest = first["layers"][0]["full_waves"][0]
    assert nearest["given"] == 32 and nearest["size"] == first["layers"][0]["full_wave_batch"]
    assert second["batch"] == 64 and second["layers"][0]["flops"] == 2 * first["layers"][0]["flops"]
    assert main(["map", "resnet18", "--what-if", "batch=64"]) == 2
    assert "expected one of its" in capsys.readouterr().err


def test_a_networks_layers_say_what_fills_them_where_asked(kernels_compiled, capsys):
    asked = study.map("squeezenet1_1", fill=True)
    for one in asked.layers:
        assert one.fills == tuple(filling(one, asked.gpu, "float16"))
    assert main(["map", "squeezenet1_1", "--fill", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["full_wave_batch"] for row in rows] == [
        str(one.as_dict()["full_wave_batch"] or "") for one in asked.layers
    ]
    assert any(row["full_wave_filters"] for row in rows)
    plain = study.map("squeezenet1_1").as_dict()["layers"]
    assert all(row["full_waves"] is row["full_wave_batch"] is None for row in plain)


def test_a_stored_trace_equals_a_new_one(monkeypatch):
    for name in ("resnet18", "googlenet", "mobilenet_v2"):  # concatenations, depthwise layers, residual additions
        kept = mapping.summary_of(name, None, 3, "float32")
        with monkeypatch.context() as patch:
            patch.setattr(mapping, "_stored", lambda net, batch, dtype: None)
            traced = mapping.summary_of(name, None, 3, "float32")
        assert kept == traced and kept.rows == traced.rows and kept.alive_bytes == traced.alive_bytes


class _NVMLError(Exception):
    pass


def _nvml(devices, starts=True):
    def begin():
        if not starts:
            raise _NVMLError("Driver Not Loaded")

    return SimpleNamespace(
        NVMLError=_NVMLError, nvmlInit=begin, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: len(devices),
        nvmlDeviceGetHandleByIndex=lambda i: i, nvmlDeviceGetName=lambda i: devices[i][0],
        nvmlDeviceGetCudaComputeCapability=lambda i: devices[i][1],
    )  # fmt: skip


def test_gpus_of_this_machine(monkeypatch, capsys):
    known = [gpu("h100-sxm").devices[0], gpu("a100-80").devices[0]]
    monkeypatch.setitem(
        sys.modules, "pynvml", _nvml([(known[0], (9, 0)), (known[0].encode(), (9, 0)), (known[1], (8, 0))])
    )
    assert [one.name for one in present()] == ["h100-sxm", "a100-80"] and gpu("here").name == "h100-sxm"
    assert main(["map", CONV, "--no-compile", "--gpu", "here"]) == 0
    assert "a100-80" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (None, "pip install nvidia-ml-py"),
        (_nvml([], starts=False), "Driver Not Loaded"),
        (_nvml([]), "has no NVIDIA GPU"),
        (_nvml([("NVIDIA GeForce RTX 3060", (8, 6))]), r"RTX 3060 .*\"like\": "),
    ],
)
def test_gpus_of_this_machine_that_cannot_be_read(monkeypatch, module, said):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with pytest.raises(InputError, match=said):
        gpu("here")

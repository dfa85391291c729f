"""Weights as trainers write them load; what does not fit, or is damaged, is one line, and the net is as it was."""

import argparse
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from convatlas.errors import ConvAtlasError, ConvAtlasWarning, InputError, NetError
from convatlas.nets.weights import load


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(features=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), fc=nn.Linear(4, 2)))


TRAINED = tiny(1)
STATE = TRAINED.state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: t for name, t in STATE.items()}


def inside() -> dict[str, torch.Tensor]:
    """As the ImageNet example of PyTorch saves VGG: only the features are DataParallel."""
    wrapped = tiny(1)
    wrapped.features = nn.DataParallel(wrapped.features)
    return wrapped.state_dict()


def compiled_inside() -> dict[str, torch.Tensor]:
    return {name.replace("features.", "features._orig_mod."): t for name, t in STATE.items()}


CHECKPOINTS = {
    "bare": STATE,
    "module": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "inside": inside(),
    "compiled inside": compiled_inside(),
    "lightning": {"epoch": 3, "state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}},
    "lightning, compiled": {"state_dict": prefixed("net._orig_mod.")},
    "imagenet example": {"epoch": 90, "arch": "x", "state_dict": prefixed("module."), "best_acc1": torch.tensor(76.1)},
    "torchvision": {"model": STATE, "optimizer": {"state": {}, "param_groups": []}, "args": argparse.Namespace(lr=0.1)},
    "averaged": AveragedModel(TRAINED).state_dict(),
    "only the average": {"epoch": 1, "model_ema": AveragedModel(TRAINED).state_dict()},
    "nested": {"model": {"state_dict": STATE, "step": 1}},
    "with NumPy's numbers": {
        "model_state_dict": STATE,
        "loss": np.float64(0.5),
        "steps": np.int64(3),
        "f": np.float32(1),
    },
}


def same(net: nn.Module) -> bool:
    return all(torch.equal(t, STATE[name]) for name, t in net.state_dict().items())


@pytest.mark.parametrize("content", CHECKPOINTS.values(), ids=CHECKPOINTS)
@pytest.mark.parametrize("name", ["w.pth", "w.CKPT", "w.pth.tar"])
def test_what_trainers_write_loads(content, name, tmp_path):
    torch.save(content, tmp_path / name)
    assert same(load(tiny(), tmp_path / name))


def test_a_bare_file_loads_into_a_wrapped_net(tmp_path):
    torch.save(STATE, tmp_path / "w.pth")
    assert same(load(nn.DataParallel(tiny()), tmp_path / "w.pth").module)


def test_of_weights_and_their_average_the_weights_are_taken_and_it_is_said(tmp_path):
    torch.save({"model_ema": prefixed("module."), "model": STATE}, tmp_path / "w.pth")
    with pytest.warns(ConvAtlasWarning, match="'model' is taken of model, model_ema"):
        assert same(load(tiny(), tmp_path / "w.pth"))


def with_weight(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """The net's last tensor but one: what comes before it would be loaded by then."""
    return {**STATE, "fc.weight": tensor}


def recursive() -> dict:
    content: dict = {}
    content["model"] = content
    return content


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(STATE["fc.weight"], 0.1, 0, torch.qint8)


REFUSED = {
    "sparse": (lambda: with_weight(STATE["fc.weight"].to_sparse()), "torch.sparse_coo, expected a dense tensor"),
    "sparse rows": (lambda: with_weight(STATE["fc.weight"].to_sparse_csr()), "torch.sparse_csr, expected a dense tensor"),
    "meta": (lambda: with_weight(torch.empty(2, 4, device="meta")), "on the meta device"),
    "nested": (lambda: with_weight(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])), "expected a dense tensor"),
    "quantised": (lambda: with_weight(quantised()), "torch.qint8, expected torch.float32"),
    "complex": (lambda: with_weight(STATE["fc.weight"].to(torch.complex64)), "torch.complex64, expected torch.float32"),
    "packed": (lambda: with_weight(torch.zeros(2, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)), "float4_e2m1fn_x2"),
    "bool": (lambda: {**STATE, "features.1.num_batches_tracked": torch.tensor(True)}, "torch.bool, expected torch.int64"),
    "number names": (lambda: dict(enumerate(STATE.values())), "names that are no text"),
    "mixed names": (lambda: {**STATE, 3: torch.ones(1)}, "1 names that are no text, such as 3"),
    "two of one name": (lambda: {**STATE, **prefixed("module.")}, "not in the net: module."),
    "recursive": (recursive, "expected a state_dict"),
    "no weights": (lambda: {"epoch": 1, "optimizer": {}}, "holds dict of 'epoch', 'optimizer', expected a state_dict"),
    "an empty one": (lambda: {"state_dict": {}, "epoch": 1}, "expected a state_dict"),
    "list": (lambda: [1, 2], "holds list"),
    "number": (lambda: 3, "holds int"),
}  # fmt: skip


@pytest.mark.parametrize("make, says", REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of prototypes
def test_what_does_not_fit_is_one_line_and_the_net_as_it_was(make, says, tmp_path):
    torch.save(make(), tmp_path / "w.pth")
    net = tiny()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(ConvAtlasError) as error:
        load(net, tmp_path / "w.pth")
    assert says in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_every_truncation_is_one_line(tmp_path):
    for name, save in (("w.pth", {}), ("w.pt", {"_use_new_zipfile_serialization": False})):
        torch.save(STATE, tmp_path / name, **save)
        whole = (tmp_path / name).read_bytes()
        for part in range(0, len(whole), len(whole) // 25):
            (tmp_path / name).write_bytes(whole[:part])
            with pytest.raises(InputError, match=r"cannot be read|expected a state_dict") as error:
                load(tiny(), tmp_path / name)
            assert "\n" not in str(error.value)


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    torch.save({"x": torch.zeros(1 << 20)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive, zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as bomb:
        for member in archive.namelist():
            bomb.writestr(member, archive.read(member))
    with pytest.raises(InputError, match=r"would unpack to 4,19\d,\d{3}"):
        load(tiny(), tmp_path / "bomb.pth")


def test_values_that_are_not_finite_load_with_a_word(tmp_path):
    weight = STATE["fc.weight"].clone()
    weight[0, 0], weight[1, 1] = float("nan"), float("-inf")
    torch.save(with_weight(weight), tmp_path / "w.pth")
    with pytest.warns(ConvAtlasWarning, match=r"in 1 of 9 tensors: fc.weight 2 of 8"):
        net = load(tiny(), tmp_path / "w.pth")
    assert net.fc.weight.isfinite().sum() == 6
    torch.save(with_weight(torch.full((2, 4), 1e6)), tmp_path / "w.pth")
    with pytest.warns(ConvAtlasWarning, match="fc.weight 8 of 8"):
        load(tiny().half(), tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tiny(), tmp_path / "w.pth")


def test_a_net_without_memory_is_refused(tmp_path):
    torch.save(STATE, tmp_path / "w.pth")
    with pytest.raises(NetError, match="meta device"):
        load(tiny().to("meta"), tmp_path / "w.pth")


@pytest.mark.parametrize("path", ["a\0b.pth", "x" * 300 + ".pth", "d/" * 3000 + "w.pth", "/dev/null/w.pth"])
def test_paths_that_no_file_has_are_one_short_line(path):
    with pytest.raises(InputError) as error:
        load(tiny(), path)
    assert len(str(error.value)) < 300 and str(error.value).isprintable()

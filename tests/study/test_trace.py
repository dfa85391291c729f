"""study.trace: paths, specs and epilogues of what a net runs, and no trace left in the net."""

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.flop_counter import FlopCounterMode

import convatlas
from convatlas import nets
from convatlas.study import trace


def hooks() -> int:
    return len(torch_module._global_forward_hooks) + len(torch_module._global_forward_pre_hooks)


def test_layers_of_resnet18():
    layers = trace(nets.create("resnet18"), (2, 3, 224, 224))
    assert [layer.path for layer in layers][:4] == ["conv1", "maxpool", "layer1.0.conv1", "layer1.0.conv2"]
    assert len(layers) == 23 and [layer.op for layer in layers].count("conv2d") == 20
    by_path = {layer.path: layer for layer in layers}
    assert str(by_path["layer1.0.conv1"].epilogue) == "bias + relu"
    assert str(by_path["layer1.0.conv2"].epilogue) == "bias + residual + relu"
    assert str(by_path["layer2.0.downsample.0"].epilogue) == "bias"
    assert by_path["layer4.1.conv2"].spec.input_shape == (2, 512, 7, 7)
    assert by_path["fc"].spec.output_shape == (2, 1000)


def test_a_residual_of_its_own_is_a_layer():
    layers = trace(nets.create("resnet18", fuse_residual=False), (1, 3, 64, 64))
    assert next(layer.path for layer in layers if layer.op == "residual_add") == "layer1.0.add"
    assert sum(layer.op == "residual_add" for layer in layers) == 8


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_macs_are_what_torch_counts(name):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        getattr(models, name)().eval()(torch.empty(1, 3, 224, 224))
    with torch.device("meta"):
        layers = trace(nets.create(name), (1, 3, 224, 224))
    assert 2 * sum(layer.spec.macs for layer in layers) == counter.get_total_flops()


def test_tensorflow_padding_of_efficientnet():
    layers = trace(nets.create("efficientnet_lite0"), (1, 3, 224, 224))
    assert layers[0].spec.padding == ((0, 1), (0, 1)) and layers[0].spec.output_shape == (1, 32, 112, 112)
    assert sum(layer.spec.macs for layer in layers) == 385_187_552
    assert any(layer.path == "_blocks.5._depthwise_conv" and layer.spec.kind == "depthwise" for layer in layers)


def test_the_net_is_as_it_was():
    net = nets.create("resnet18", num_classes=3, seed=0)
    state = {name: (t, t._version) for name, t in (*net.named_parameters(), *net.named_buffers())}
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = net(x)
        trace(net, (1, 3, 64, 64), torch.float16)
        assert all(state[n][0] is t and state[n][1] == t._version for n, t in net.named_parameters())
        assert torch.equal(net(x), before)
    assert hooks() == 0 and not any(module._forward_hooks for module in net.modules())


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Identity(), nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convatlas.relu(self.inner(x))
        raise ValueError("broken")


def test_no_hook_stays_behind_an_error():
    with pytest.raises(ValueError, match="broken"):
        trace(Broken(), (1, 3, 4, 4))
    assert hooks() == 0


class Catching(nn.Module):
    """Goes on after a module of its own raised: the path must be right again."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = Broken()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            self.broken(x)
        except ValueError:
            return convatlas.relu6(x)


def test_paths_after_a_caught_error():
    assert [(layer.path, layer.op) for layer in trace(Catching(), (1, 3, 4, 4))] == [("broken", "relu"), ("", "relu6")]


def test_an_input_that_does_not_fit():
    with pytest.raises(convatlas.ShapeError, match="C=4"):
        trace(nets.create("resnet18"), (1, 4, 32, 32))
    assert hooks() == 0


def test_a_tensor_the_net_hides():
    class Hiding(nn.Module):
        scale = torch.ones(1, 3, 4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, self.scale])

    with pytest.raises(convatlas.NetError, match="parameter or a buffer"):
        trace(Hiding(), (1, 3, 4, 4))


def test_parameters_and_keys():
    class Normalised(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return convatlas.local_response_norm(convatlas.local_response_norm(x, 5, k=2.0), 5, k=2.0)

    first, second = trace(Normalised(), (1, 8, 4, 4))
    assert first.params["k"] == 2.0 and first.key == second.key and hash(first.key) == hash(second.key)


def test_the_training_mode_is_traced_as_it_is():
    """In training a batch norm cannot be folded, so no bias is fused."""
    layers = trace(nets.create("resnet18").train(), (2, 3, 64, 64))
    assert layers[0].epilogue == convatlas.specs.Epilogue()

"""A plan is made whatever PyTorch's settings are, and leaves them as they were."""

import pytest
import torch
from torch import nn

from convatlas.plan.plan import compile


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("conv", ["tf32", "ieee"])
@pytest.mark.parametrize("rnn", ["tf32", "ieee"])
def test_any_tf32_settings(older, conv, rnn):
    """torch.export reads the older flag, which raises while it disagrees with the newer ones."""
    layers = torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    before = [layer.fp32_precision for layer in layers]
    try:
        torch._C._set_cudnn_allow_tf32(older)
        for layer, precision in zip(layers, (conv, rnn)):
            layer.fp32_precision = precision
        module, x = nn.Conv2d(3, 4, 3).eval(), torch.randn(1, 3, 6, 6)
        with torch.no_grad():
            assert torch.allclose(compile(module, x, backend="numpy")(x), module(x), atol=1e-5)
        assert [layer.fp32_precision for layer in layers] == [conv, rnn]
    finally:
        torch._C._set_cudnn_allow_tf32(True)
        for layer, precision in zip(layers, before):
            layer.fp32_precision = precision

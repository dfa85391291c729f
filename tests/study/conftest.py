"""What the tests of the instruments share."""

import pytest
import torch
from torch import nn

from convatlas import nets


@pytest.fixture
def built():
    """built(name): the net on the meta device, without the random numbers."""

    def build(name: str, **options) -> nn.Module:
        with torch.device("meta"):
            return nets.create(name, **options)

    return build

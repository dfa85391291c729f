"""A small net for tests of many pictures, in the registry as "tiny"; run as a program it is the command line with that net.

With TINY_SLEEP=0.1 in the environment it takes that many seconds for each batch, so that a test can kill it meanwhile.
"""

import os
import sys
import time
from types import ModuleType

from convatlas.nets import registry


def register() -> None:
    """Puts the net into the registry."""
    module = ModuleType("convatlas.nets.tiny")
    module.build = build
    sys.modules[module.__name__] = module
    how = registry.Preprocess(12, 8, "bilinear", (127.5,) * 3, (127.5,) * 3)
    registry.NETS["tiny"] = registry.Net("tiny", "tiny", 2026, "none", 8, how, "none", classes=7)


def build(name: str, num_classes: int, in_channels: int):
    from torch import nn

    from convatlas.nets.layers import Conv2d, Linear

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Conv2d(in_channels, 4, 3, padding=1)
            self.fc = Linear(4 * 8 * 8, num_classes)

        def forward(self, x):
            time.sleep(float(os.environ.get("TINY_SLEEP", "0")))
            return self.fc(self.conv(x, activation="relu").flatten(1))

    return Tiny()


if __name__ == "__main__":
    from convatlas.cli import main

    register()
    sys.exit(main())

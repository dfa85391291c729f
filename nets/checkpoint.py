"""Reads a state_dict from a file of PyTorch's or of safetensors', bare or as trainers write them."""

from __future__ import annotations

import warnings
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convatlas.errors import ConvAtlasWarning, InputError
from convatlas.files import readable, shown

PYTORCH, SAFETENSORS = (".pth", ".pt", ".ckpt", ".bin", ".tar"), (".safetensors",)
# Under which name a checkpoint holds the weights; where there are several, the first in this order. PyTorch's examples, Lightning
# and timm write state_dict, torchvision's references model; averaged weights come last, the trainer's second choice.
WEIGHTS = (
    "state_dict", "model_state_dict", "model", "model_state", "net", "network", "module", "weights", "params",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "params_ema",
)  # fmt: skip
DEPTH = 4  # of dictionaries in one another
# What trainers store beside weights: their options, and accuracies as NumPy scalars. Building one runs no code of the file's.
SCALARS = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
SCALAR = np.float64().__reduce__()[0]  # NumPy 2 renamed the module that it is in
HARMLESS = [Namespace, np.dtype, *SCALARS, *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))]


def read(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU: a state_dict, or the one that a checkpoint holds under a name of WEIGHTS.

    Raises InputError for a file that is missing, damaged or compressed, that is of another kind, or that asks for code to be run.
    """
    file, name = Path(path), f"weights {shown(path)}"
    if file.suffix.lower() not in PYTORCH + SAFETENSORS:
        raise InputError(f"{name}: expected a file ending in {', '.join(PYTORCH + SAFETENSORS)}")
    readable(path, "weights")
    try:
        found = _safetensors(file) if file.suffix.lower() in SAFETENSORS else _pytorch(file, name)
    except InputError:
        raise
    except Exception as error:  # what these two raise for a file that is not theirs is no closed list
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name}: cannot be read as a {file.suffix} file: {line}") from error
    return _state_dict(found, name)


def digest(tensors: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the names, dtypes, shapes and values: the same however and wherever they are stored."""
    found = sha256()
    for name in sorted(tensors):
        if isinstance(x := tensors[name], Tensor):
            found.update(f"{name}\0{x.dtype}\0{tuple(x.shape)}\0".encode())
            values = x.detach().cpu().contiguous().reshape(-1)
            found.update(values.view(torch.uint8).numpy())
    return found.hexdigest()


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def _pytorch(file: Path, name: str) -> Any:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > file.stat().st_size:  # torch.save never compresses: its tensors lie in the file as they are
            raise InputError(
                f"{name}: {file.stat().st_size:,} bytes that would unpack to {unpacked:,}, expected a file as torch.save writes it"
            )
    with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's about kinds of tensors that are refused below
        return torch.load(file, map_location="cpu", weights_only=True)


def _state_dict(found: Any, name: str) -> dict[str, Tensor]:
    for _ in range(DEPTH):
        if not isinstance(found, Mapping):
            break
        if all(isinstance(value, Tensor) for value in found.values()):
            if wrong := [key for key in found if not isinstance(key, str)]:
                raise InputError(
                    f"{name}: {len(wrong)} names that are no text, such as {wrong[0]!r:.80}, expected a state_dict"
                )
            return dict(found)
        inside = [key for key in WEIGHTS if isinstance(found.get(key), Mapping) and found[key]]
        if not inside:
            break
        if len(inside) > 1:
            warnings.warn(f"{name}: {inside[0]!r} is taken of {', '.join(inside)}", ConvAtlasWarning, stacklevel=4)
        found = found[inside[0]]
    what = type(found).__name__
    if isinstance(found, Mapping):
        what += f" of {', '.join(f'{key!r:.40}' for key in list(found)[:5])}"
    raise InputError(
        f"{name}: holds {what}, expected a state_dict, tensors by name, or a checkpoint that has one as {WEIGHTS[0]}"
    )

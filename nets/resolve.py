"""From a command's argument to a network: one of ours, one of torchvision's, or a module of the user's own.

    resnet18                    ours, by name
    torchvision:resnet50        torchvision.models.get_model
    mymodule.py:Net             Net in that file: a class or function that is called without arguments, or a module
    mypackage.models:Net        the same of an importable module

A user's file runs as Python would run it: it is the user's own code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.errors import ConvAtlasError, InputError, NetError
from convatlas.names import spelled
from convatlas.nets.registry import create, info

if TYPE_CHECKING:
    from torch import nn

SIZE = 224  # pixels, for a net that does not say what it takes
TORCHVISION = "torchvision"


@dataclass(frozen=True)
class Found:
    """A net by its argument.

    Attributes:
        name: the net's name; for a net that is not ours, the argument as it was given.
        size: pixels of the square input that it was made for.
        build: makes it, in eval mode; on the meta device inside `with torch.device("meta")`.
    """

    name: str
    size: int
    build: Callable[[], nn.Module]


def resolve(argument: str) -> Found:
    """The net that `argument` means; nothing is built yet, and for one of ours torch is not imported.

    Raises NetError for a name that is unknown or no network, InputError for a file or a package that is not there.
    """
    place, colon, name = argument.rpartition(":")
    if not colon:
        row = info(argument)
        return Found(row.name, row.size, lambda: create(row.name))
    if not place or not name:
        raise NetError(f"{argument!r}, expected a name, {TORCHVISION}:NAME, FILE.py:NAME or PACKAGE.MODULE:NAME")
    if place.casefold() == TORCHVISION:
        return _torchvision(name)
    maker = _attribute(argument, place, name)
    return Found(argument, SIZE, lambda: _made(argument, maker))


def _torchvision(name: str) -> Found:
    if find_spec(TORCHVISION) is None:
        raise InputError(f"{TORCHVISION}:{name} needs the package torchvision, which is not installed")
    models = import_module("torchvision.models")
    name = spelled(name, models.list_models(), "network of torchvision", "torchvision.models.list_models() lists all")
    best = next(iter(models.get_model_weights(name)), None)  # of the weights only the size of their images is asked
    crop = getattr(best.transforms, "keywords", {}).get("crop_size", SIZE) if best else SIZE
    size = crop if isinstance(crop, int) else crop[0]  # of video a pair
    options = {"weights": None, "weights_backbone": None}  # where they are not refused, torchvision downloads them
    known = signature(models.get_model_builder(name)).parameters
    none = {option: value for option, value in options.items() if option in known}
    return Found(f"{TORCHVISION}:{name}", size, lambda: models.get_model(name, **none).eval())


def _attribute(argument: str, place: str, name: str) -> Any:
    """What `name` is in the file or module `place`."""
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise InputError(f"{argument}: there is no file {place}")
    folder = str(path.parent.resolve() if is_file else Path.cwd())  # as `python FILE` and `python -m MODULE` do
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        if is_file:
            found = spec_from_file_location(path.stem, path)
            module = module_from_spec(found)
            sys.modules.setdefault(path.stem, module)  # for pickle and dataclasses, which look their module up
            found.loader.exec_module(module)
        else:
            module = import_module(place)
    except Exception as error:
        raise InputError(f"{argument}: {place} cannot be imported: {_one_line(error)}") from error
    if not hasattr(module, name):
        raise NetError(f"{argument}: {place} has no {name!r}")
    return getattr(module, name)


def _made(argument: str, maker: Any) -> nn.Module:
    from torch import nn

    net = maker
    if not isinstance(maker, nn.Module):
        if not callable(maker):
            raise NetError(f"{argument} is {type(maker).__name__}, expected a torch.nn.Module or what makes one")
        try:
            net = maker()
        except ConvAtlasError:
            raise
        except Exception as error:
            raise NetError(f"{argument}() failed: {_one_line(error)}; expected a call without arguments") from error
    if not isinstance(net, nn.Module):
        raise NetError(f"{argument}() gave {type(net).__name__}, expected a torch.nn.Module")
    return net.eval()


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

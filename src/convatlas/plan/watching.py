"""Whether the modules and tensors that a plan came from are still the same, and hold the same numbers."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, getitem, is_not
from typing import Any

from torch import Tensor, nn

_version = attrgetter("_version")


class Watch:
    """Parts, parameters and buffers of a module as they are now. `changed` runs in every call of a plan, so its loops are C's.

    Most of its time are two reads of 60 ns a tensor, of the version and the address; torch reads those of many tensors at once no
    quicker. With looks=False no change is seen.
    """

    def __init__(self, module: nn.Module, names: Iterable[str], looks: bool = True) -> None:
        self._looks = looks
        self._parents = [part._modules for part in module.modules() if part._modules]
        self._parts = self._parts_now()
        self._owners, self._names = [], []
        for name in sorted(names):
            path, _, last = name.rpartition(".")
            owner = module.get_submodule(path)
            self._owners.append(owner._parameters if last in owner._parameters else owner._buffers)
            self._names.append(last)
        self._tensors = self._now() or []
        # An inference tensor counts no versions.
        self._counting = [x for x in self._tensors if not x.is_inference()]
        self._versions = list(map(_version, self._counting))
        self._addresses = list(map(Tensor.data_ptr, self._tensors))
        self._forms = self._formed(self._tensors)

    def _parts_now(self) -> list[list[nn.Module | None]]:
        return list(map(list, map(dict.values, self._parents)))

    def _now(self) -> list[Tensor] | None:
        try:
            return list(map(getitem, self._owners, self._names))
        except KeyError:
            return None

    @staticmethod
    def _formed(tensors: list[Any]) -> list[Any]:
        return [x if x is None else (x.shape, x.dtype, x.device) for x in tensors]

    def changed(self) -> bool:
        """Whether a part or a tensor is another one, or a tensor lies elsewhere or was written in place, as PyTorch counts that."""
        if not self._looks:
            return False
        now = self._now()
        return (
            now is None
            or self._parts_now() != self._parts
            or any(map(is_not, now, self._tensors))
            or list(map(_version, self._counting)) != self._versions
            or list(map(Tensor.data_ptr, self._tensors)) != self._addresses
        )

    def fits(self) -> bool:
        """Whether no part is another module, and all have the shapes, dtypes and devices that they had."""
        now = self._now()
        return now is not None and self._parts_now() == self._parts and self._formed(now) == self._forms

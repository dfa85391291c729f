"""The base of every net: images in, logits out.

A size that is too small is refused, and the error names the smallest that works.
"""

from __future__ import annotations

from contextvars import Context

import torch.fx
from torch import Tensor, nn

from convatlas.errors import ShapeError
from convatlas.nets.layers import channels_last
from convatlas.nets.meta import run_on_meta

torch.fx.wrap("channels_last")

LARGEST = 512  # the search for a size that works ends here; every net of the registry takes one that is smaller


class Network(nn.Module):
    """The base of the nets: a subclass writes logits(x).

    Attributes:
        in_channels: channels of the images.
        training_only: prefixes of the names of parameters that only training needs. A file may hold weights for them although
            the net was built without (nets.load).
    """

    training_only: tuple[str, ...] = ()

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels

    def logits(self, x: Tensor) -> Tensor:
        """(N, num_classes) of channels_last images (N, in_channels, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W).

        Raises ShapeError for images that do not fit. Where only their size is wrong, the error names the smallest that works.
        """
        try:
            return self.logits(channels_last(x))
        except ShapeError as error:
            smallest = smallest_size(self) if x.dim() == 4 and x.shape[1] == self.in_channels else None
            if smallest is None:
                raise
            raise ShapeError(
                f"{type(self).__name__}: images of {x.shape[2]}x{x.shape[3]} pixels do not fit, "
                f"the smallest square ones that do are {smallest}x{smallest} ({error})"
            ) from error


def smallest_size(net: Network) -> int | None:
    """Pixels of the smallest square image that `net` takes, found by running it on the meta device; None when none is found."""
    # A context of its own: whoever observes the ops of a failed run is not told of these.
    return Context().run(_search, net)


class _Logits(nn.Module):
    """The net's logits alone: its forward would answer an error by searching the smallest size again."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.logits(x)


def _search(net: Network) -> int | None:
    for size in range(1, LARGEST + 1):
        try:
            run_on_meta(_Logits(net), (2, net.in_channels, size, size))
        except ValueError:  # ShapeError, or torch's own for a batch norm that cannot train on a single value
            continue
        return size
    return None

"""Runs a net on the meta device, where only shapes are computed, without touching the net itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import ConvAtlasError, NetError


def run_on_meta(net: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Any:
    """net(x) for a channels_last x of `input_shape`; parameters, buffers and x are on the meta device, so nothing is allocated
    or computed.

    dtype: the dtype of x and of every floating-point parameter and buffer. None keeps the parameters' own, and x gets the first
    one's. Raises NetError when the net keeps a tensor that is neither a parameter nor a buffer, and whatever the net raises.
    """

    def shadow(t: Tensor) -> Tensor:
        return torch.empty_like(t, device="meta", dtype=dtype if t.is_floating_point() else None)

    state = {name: shadow(t) for name, t in (*net.named_parameters(), *net.named_buffers())}
    if dtype is None:
        dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    x = torch.empty(input_shape, dtype=dtype, device="meta")
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            return torch.func.functional_call(net, state, (x,))
    except ConvAtlasError:
        raise
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        raise NetError(
            f"{type(net).__name__} cannot run on the meta device: {str(error).splitlines()[0]}; "
            "expected every tensor it keeps to be a parameter or a buffer"
        ) from error

"""What the tests of all blocks share: a block run by itself, and its operands without memory."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import DTYPES, hold
from torch import Tensor

from convatlas.call import Call
from convatlas.ops.block import block
from convatlas.study.layer import Layer
from convatlas.verify.probes import probes
from convatlas.verify.single import operands


def run(
    call: Call, device: str = "cpu", exact: bool = False, out: Tensor | None = None, backend: str = "cuda"
) -> Tensor:
    """The block on random operands, or on probes that a right kernel computes exactly."""
    dtype, layer = DTYPES[call.dtype], Layer("", call)
    given = probes(layer, dtype, torch.device(device), 0) if exact else operands(layer, dtype, torch.device(device), 0)
    return block(call.spec, given, backend=backend, out=out)


def hold_both(call: Call, device: str = "cpu") -> None:
    """Holds the block to its parts' bounds on random operands, and exactly on probes."""
    hold(lambda: run(call, device))
    hold(lambda: run(call, device, exact=True), exact=True)


def hold_reversed(call: Call, patch: pytest.MonkeyPatch) -> None:
    """Threads run up to each barrier one after the other, so a missing barrier shows when their order is turned round."""
    forth = run(call)
    patch.setenv("CONVATLAS_REVERSE", "1")
    assert torch.equal(forth, run(call))


def meta(call: Call) -> tuple[dict[str, Tensor], Tensor]:
    """Operands by name and the output, in half precision and channels_last."""

    def one(shape: tuple[int, ...]) -> Tensor:
        order = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return torch.empty(shape, dtype=torch.float16, device="meta", memory_format=order)

    return {name: one(shape) for name, shape in call.spec.inputs.items()}, one(call.spec.output_shape)

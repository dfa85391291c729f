"""torch.utils.flop_counter.FlopCounterMode counts our ops: by torch's own convention, in which only products with weights count.

torch counts a multiplication and an addition as 2 FLOPs, and only for convolutions and matrix products: poolings, norms,
activations and the epilogue count as 0. `spec.flops` counts them (docs/design.md); these formulas do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import register_flop_formula


def register(name: str, call_of: Any) -> None:
    """Registers a formula for torch.ops.convatlas.<name>; `call_of(values, keywords)` gives the op's Call."""
    target = getattr(torch.ops.convatlas, name)

    @register_flop_formula(target, get_raw=True)
    def formula(*values: Any, out_val: Tensor | None = None, **keywords: Any) -> int:
        return 2 * call_of(values, keywords).spec.macs

    # A counter copies the formulas when it is made, and the ops are imported when first used: perhaps inside its `with` block.
    for mode in _get_current_dispatch_mode_stack():
        if hasattr(getattr(mode, "counter", None), "flop_registry"):
            mode.counter.flop_registry[target] = formula

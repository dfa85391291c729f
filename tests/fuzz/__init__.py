"""The fuzz: random calls of every op, right and wrong ones, held to the reference's bound and to torch.nn.functional.

draw.py makes cases, verdict.py says what is wrong with one, differences.py lists where torch is not followed, process.py runs them
in a child with limits, shrink.py makes a failing case smaller, faults.py puts known bugs back. `make fuzz` runs it for as long as
wanted; a failure is one line:

    from fuzz import *; replay(Case('relu', 'triton', args={'input': T((3,))}))
"""

import os
from math import inf, nan

from torch import tensor

from fuzz.cases import Case, T
from fuzz.verdict import judge


def interpret() -> None:
    """Has Triton's kernels interpreted, as tensors on a CPU need it; before anything imports triton.

    No import of this package does so: `pytest -m gpu` imports it as well, and would then skip every test.
    """
    os.environ.setdefault("TRITON_INTERPRET", "1")


def replay(case: Case) -> None:
    """Runs one case and prints what is wrong with it."""
    interpret()
    print(judge(case) or "right")


__all__ = ["Case", "T", "inf", "interpret", "judge", "nan", "replay", "tensor"]

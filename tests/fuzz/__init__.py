"""The fuzz: random calls of every op, right and wrong ones, held to the reference's bound and to torch.nn.functional.

draw.py makes cases, verdict.py says what is wrong with one, differences.py lists where torch is not followed, process.py runs them
in a child with limits, shrink.py makes a failing case smaller, faults.py puts known bugs back. `make fuzz` runs it for as long as
wanted; a failure is one line:

    from fuzz import *; replay(Case('relu', 'triton', args={'input': T((3,))}))
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

from math import inf, nan

from torch import tensor

from fuzz.cases import Case, T
from fuzz.verdict import judge


def replay(case: Case) -> None:
    """Runs one case and prints what is wrong with it."""
    print(judge(case) or "right")


__all__ = ["Case", "T", "inf", "judge", "nan", "replay", "tensor"]

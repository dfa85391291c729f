"""The reference is NumPy alone, and its functions are reached by their names."""

from __future__ import annotations

import subprocess
import sys

import convatlas.reference as reference


def test_neither_torch_nor_a_gpu_library_is_imported() -> None:
    code = (
        "import sys, convatlas.reference as r, numpy as np; r.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)));"
        "print([m for m in ('torch', 'triton', 'cupy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_win_over_the_submodules_of_their_names() -> None:
    assert all(callable(getattr(reference, name)) for name in reference.__all__)

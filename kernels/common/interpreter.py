"""Whether Triton's kernels run in its interpreter in this process."""

from __future__ import annotations

from functools import cache


@cache
def interpreting() -> bool:
    """Whether this process's Triton kernels run in the interpreter, which is decided when triton is first imported."""
    import triton
    import triton.language as tl

    # tl.cdiv is itself a kernel-language function: how it was decorated tells how every kernel will be.
    return not isinstance(tl.cdiv, triton.JITFunction)

"""Launcher of inverted residual blocks, and of depthwise separable ones, which have no expanding part."""

from __future__ import annotations

from convatlas.specs import BlockSpec
from convatlas.specs.activations import exact

MOST = 192  # filters of the projection: their sums are a warp's registers


def takes(spec: BlockSpec, dtype: str) -> bool:
    """Whether the kernel computes a block of this shape: half precision, 3x3 or 5x5 windows of stride 1 or 2, whole vectors."""
    depthwise, project, expand = (spec.part(name) for name in ("depthwise", "project", "expand"))
    d, p = depthwise.spec, project.spec
    square = d.R == d.S and d.R in (3, 5) and d.stride in ((1, 1), (2, 2)) and d.dilation == (1, 1) and d.K == d.C
    one = all(part is None or part.spec.stride == (1, 1) for part in (project, expand))
    channels = (d.C, p.K, *([expand.spec.C] if expand else ()))
    inner = {part.epilogue.activation for part in (depthwise, expand) if part}
    known = len(inner) == 1 and inner <= {"relu", "relu6"} and exact(project.epilogue.activation)
    return (
        dtype in ("float16", "bfloat16")
        and square
        and one
        and known
        and p.K <= MOST
        and not any(c % 8 for c in channels)
    )

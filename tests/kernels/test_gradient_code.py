"""The machine code of a data gradient's main loop: on tensor cores, and within 10 % of the forward's instructions for each.

Layers of stride 1, which are one phase. Cross-compiled, so that no GPU is needed: one cell always, one more by turns (rotation.py).
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product

import pytest
from rotation import share

from convatlas.bench.cases import gradients_of
from convatlas.call import Call
from convatlas.codegen.mix import kind, main
from convatlas.codegen.resources import Task, code
from convatlas.codegen.sass import listing
from convatlas.kernels.common.target import TARGETS
from convatlas.specs import Conv2dSpec, Epilogue

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cross_compile")]
LAYERS = {
    "3x3": Conv2dSpec.of((32, 256, 28, 28), (256, 256, 3, 3), 1, 1),
    "1x1": Conv2dSpec.of((32, 256, 28, 28), (256, 256, 1, 1)),
}
FIRST = ("sm_90", "triton", "3x3")
BACKENDS = ("triton", "cuda") if find_spec("cuda") else ("triton",)
CELLS = [
    cell for cell in product(("sm_80", "sm_90", "sm_100"), BACKENDS, LAYERS) if cell != FIRST
]  # fmt: skip


def each(call: Call, arch: str, backend: str) -> list[float]:
    """For each launch, the instructions of a round of its main loop a tensor-core instruction."""
    found = []
    for made in code(Task(call, "float16", TARGETS[arch], backend)):
        text = listing(made.cubin)[made.function]
        if (loop := main(text)) is not None:
            products = sum(kind(text[i]) == "tensor" for i in loop.body)
            assert products, f"{made.kernel} multiplies without tensor cores"
            found.append(len(loop.body) / products)
    return found


@pytest.mark.parametrize("arch, backend, layer", [FIRST, *share(CELLS)])
def test_the_main_loop_is_the_forwards(arch: str, backend: str, layer: str) -> None:
    spec = LAYERS[layer]
    (forward,) = each(Call("conv2d", spec, Epilogue()), arch, backend)
    backward = each(Call("conv2d_input_grad", gradients_of(spec)["conv2d_input_grad"]), arch, backend)
    assert backward and max(backward) <= 1.1 * forward, (forward, backward)

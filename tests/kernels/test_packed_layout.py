"""What a prepared launch packs is what the compiled kernel takes: held against the parameters that its PTX declares, for sm_90."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys

import pytest

from convatlas.kernels.common.cuda.source import FORMATS
from convatlas.kernels.common.cuda.source import parameters as struct_of

# One call of each kind of argument: plain, absent operands, descriptors, a reduction's workspace.
SCRIPT = """
import json, re, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from convatlas.call import Call
from convatlas.kernels.common.compiling import specialize
from convatlas.codegen.inventory import launches_of
from convatlas.kernels.common.parameters import Loaded, parameters, size
from convatlas.specs import Conv2dSpec, ElementwiseSpec, Epilogue

SIZES = {"u64": 8, "u32": 4, "f32": 4, "b64": 8, "b32": 4}
calls = [
    Call("conv2d", Conv2dSpec.of((8, 64, 56, 56), (64, 64, 3, 3), 1, 1), Epilogue(True, "relu", True)),
    Call("conv2d", Conv2dSpec.of((1, 512, 7, 7), (512, 512, 1, 1)), Epilogue(True, "relu")),
    Call("relu", ElementwiseSpec("relu", (2, 16, 8, 8))),
]
found = []
for call in calls:
    for launch in launches_of(call, "float16", 90):
        signature, constants, attributes = specialize(launch)
        kernel = triton.compile(
            ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes),
            target=GPUTarget("cuda", 90, 32), options=launch.options,
        )
        entry = re.search(r"\\.entry [^(]*\\((.*?)\\)", kernel.asm["ptx"], re.DOTALL)[1]
        declared = [
            int(n) if n else SIZES[kind]
            for kind, n in re.findall(r"\\.param(?: \\.align \\d+)? \\.(\\w+)[^\\[,]*?(?:\\[(\\d+)\\])?\\s*(?:,|$)", entry)
        ]
        maps = tuple(kernel.metadata.tensordesc_meta or ())
        loaded = Loaded(0, 0, 0, dict(kernel.src.signature), maps)
        packed = [size(parameter) for parameter in parameters(launch, loaded)]
        found.append([launch.kernel.__name__, len(maps), declared, packed, list(kernel.packed_metadata)])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("cross_compile")
def test_triton_kernels_take_what_is_packed() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert any(maps == 2 for _, maps, *_ in found) and len(found) >= 3
    for name, _, declared, packed, (warps, clusters, *_) in found:
        assert declared == packed, name
        assert clusters == 1 and warps in (1, 2, 4, 8, 16)


def test_a_struct_has_fields_of_eight_bytes_only() -> None:
    """So that a field's place is eight times its number, and a pointer's is a word."""
    assert all(struct.calcsize(f"={kind}") == 8 for kind in FORMATS.values())
    assert struct_of("gemm/implicit_gemm.cu", "implicit_gemm")[1]

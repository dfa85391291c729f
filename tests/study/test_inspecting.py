"""inspect: SASS parsed, loops, mix, issue slots and bank conflicts by hand, and layers compiled in worker processes."""

import json

import pytest

from convatlas.cli import main
from convatlas.codegen import banks, mix, sass
from convatlas.codegen.loops import loops, main_loop
from convatlas.codegen.sass import Instruction
from convatlas.errors import ArgumentError, InputError, NetError
from convatlas.model.gpu import gpu
from convatlas.model.work import Tiling, Work
from convatlas.study import inspecting

CUOBJDUMP = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;          /* 0x00000a00ff017b82 */
                                                                   /* 0x000e300000000800 */
        /*0010*/              @!P0 BRA 0x0000 ;                    /* 0x000e300000000800 */
        /*0020*/                   EXIT ;                          /* 0x000e300000000800 */
"""
NVDISASM = """
kernel:
.text.kernel:
	//## File "/x/kernels/common/device.py", line 123 inlined at "/x/kernels/conv2d/triton_tma.py", line 94
	//## File "/x/kernels/conv2d/triton_tma.py", line 94
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
.L_x_0:
	//## File "/x/triton/language/standard.py", line 43
        /*0020*/                   EXIT ;
"""


def test_both_disassemblers_are_read():
    one, two, three = sass.parse(CUOBJDUMP)
    assert (one.address, one.opcode, one.operands, one.target) == (0, "LDC", "R1, c[0x0][0x28]", None)
    assert (two.predicate, two.name, two.target) == ("@!P0", "BRA", 0)
    assert (three.opcode, three.operands) == ("EXIT", "")
    one, two, three = sass.parse(NVDISASM)
    assert one.lines == two.lines == (("/x/kernels/common/device.py", 123), ("/x/kernels/conv2d/triton_tma.py", 94))
    assert two.target == 0x20 and inspecting.own_line(one) == ("kernels/common/device.py", 123)
    assert three.lines == (("/x/triton/language/standard.py", 43),) and inspecting.own_line(three) is None


def code(*lines: str) -> list[Instruction]:
    """Instructions 16 bytes apart; "to 3" names the place that a branch goes to."""
    found = []
    for i, line in enumerate(lines):
        words, _, to = line.partition(" to ")
        predicate, opcode = words.split() if words.startswith("@") else ("", words)
        found.append(Instruction(16 * i, predicate, opcode, "", 16 * int(to) if to else None))
    return found


def test_a_loop_is_what_leads_back_to_its_head():
    """A branch inside, and a wait whose code lies behind the end of the function, as compilers place it."""
    made = code(
        "S2R",
        "HMMA.16816.F32",  # 1: the head
        "@P0 BRA to 4",
        "FADD",  # in some rounds
        "@P1 BRA to 8",  # 4: to the wait
        "LDSM.16.M88.4",  # 5
        "@P2 BRA to 1",
        "EXIT",
        "SYNCS",  # 8: the wait, a loop of its own
        "@P3 BRA to 8",
        "BRA to 5",
    )
    found = {loop.body: loop.always for loop in loops(made)}
    assert found == {
        (1, 2, 3, 4, 5, 6, 8, 9, 10): frozenset({1, 2, 4, 5, 6}),
        (8, 9): frozenset({8, 9}),
    }
    assert mix.main(made).body == (1, 2, 3, 4, 5, 6, 8, 9, 10)


def test_the_main_loop_is_the_innermost_one_that_multiplies_most():
    made = code("HMMA", "HMMA", "HMMA", "@P0 BRA to 2", "FFMA", "@P1 BRA to 1", "IADD3", "@P2 BRA to 6", "EXIT")
    assert main_loop(made, [one.name == "HMMA" for one in made]).body == (2, 3)
    assert main_loop(made, [False] * len(made)) is None
    assert mix.main(code("FFMA", "EXIT")) is None
    assert mix.main(code("FFMA", "@P0 BRA to 0", "EXIT")).body == (0, 1)


@pytest.mark.parametrize(
    ("opcode", "kind", "bytes"),
    [
        ("HGMMA.64x128x16.F32", "tensor", None),
        ("LDGSTS.E.BYPASS.LTC128B.128", "load, asynchronous copy", 16),
        ("UTMALDG.5D", "load, asynchronous copy", None),
        ("LDG.E.64", "load, global", 8),
        ("LDG.E.U16", "load, global", 2),
        ("STG.E.128", "store, global", 16),
        ("LDSM.16.M88.4", "load, shared", 16),
        ("LDS", "load, shared", 4),
        ("STL.64", "spill", 8),
        ("LDGDEPBAR", "sync", None),
        ("UIADD3", "address, integer", None),
        ("LDC.64", "load, constant", None),
    ],
)
def test_kinds_and_widths(opcode, kind, bytes):
    assert mix.kind(Instruction(0, "", opcode, "")) == kind
    if kind.startswith(mix.MEMORY):
        assert mix.width(opcode) == bytes


def test_issue_slots_by_hand():
    """An HGMMA of 64x128x16 is 131,072 products, 64 clocks at 2,048 a clock and SM; 4 warps issue on 4 schedulers."""
    work = Work("k", "", 1, 128, 3, Tiling(64, 128, 64, 9, 1, 1), 1, 1, 1, "triton", 2)
    made = code("HGMMA.64x128x16.F32", "IADD3", "IADD3", "@P0 BRA to 0", "EXIT")
    found = mix.issue(made, mix.main(made), work, gpu("h100-sxm"), "float16")
    assert (found.pipe, found.cycles) == ("tensor", 64) and found.always == found.most == 4 / 64
    # An HMMA of 16x8x16 is 2,048 products a warp, of 4 warps 8,192: 8 clocks at 1,024 a clock and SM.
    made = code("HMMA.16816.F32", "@P0 BRA to 0", "EXIT")
    assert mix.issue(made, mix.main(made), work, gpu("a100-80"), "float16").cycles == 8
    # Without tensor cores an FFMA of 4 warps is 128 products: two clocks of an A100, whose SMs have 64 lanes.
    made = code("FFMA", "IADD3", "@P0 BRA to 0", "EXIT")
    assert mix.issue(made, mix.main(made), work, gpu("a100-80"), "float32").always == pytest.approx(1.5, rel=0.01)


def test_bank_conflicts_by_hand():
    assert banks.turns(range(0, 128, 4), 4) == 1  # a warp's neighbouring words
    assert banks.turns(range(0, 32 * 128, 128), 4) == 32  # a column of rows of 128 bytes
    assert banks.turns(range(0, 32 * 132, 132), 4) == 1  # the same with a word of padding
    assert banks.turns([0] * 32, 4) == 1  # one word for all
    assert banks.turns(range(0, 8 * 128, 128), 16) == 8 and banks.turns(range(0, 128, 16), 16) == 1
    assert banks.swizzled(128, 1, 8, 16) == (1, 1)  # the XOR swizzle of a full line
    assert banks.swizzled(128, 1, 1, 16) == (8, 1)  # none: 8 rows of one chunk meet on 4 banks
    assert banks.swizzled(64, 2, 4, 16) == (1, 1) and banks.swizzled(64, 1, 1, 16) == (4, 1)


def test_layouts_that_ttgir_names():
    text = """
#shared = #ttg.swizzled_shared<{vec = 8, perPhase = 1, maxPhase = 1, order = [1, 0]}>
#shared1 = #ttg.nvmma_shared<{swizzlingByteWidth = 128, transposed = false, elementBitWidth = 16}>
#shared2 = #ttg.swizzled_shared<{vec = 1, perPhase = 1, maxPhase = 1, order = [0]}>
    %a_88 = ttg.local_alloc : () -> !ttg.memdesc<3x128x64xf16, #shared, #smem, mutable> loc(#loc1)
    %b = ttg.local_alloc : () -> !ttg.memdesc<4x64x64xf16, #shared1, #smem, mutable> loc(#loc2)
    %13 = ttg.local_alloc : () -> !ttg.memdesc<4x1xi64, #shared2, #smem, mutable> loc(#loc3)
"""
    a, b = banks.of_triton(text)
    assert (a.name, a.reads, b.name, b.reads) == ("a", 8, "b", 1)


def test_names_of_architectures_and_layers():
    for given in ("sm_90", "SM_90a", "90"):
        assert inspecting.target_gpu(given, None).name == "h100-sxm"
    assert inspecting.target_gpu("sm_80", None).name.startswith("a100")
    with pytest.raises(InputError, match=r"unknown architecture 'sm_9', nearest: .*sm_90"):
        inspecting.target_gpu("sm_9", None)
    with pytest.raises(InputError, match="give one of them"):
        inspecting.target_gpu("sm_80", "h100-sxm")
    assert inspecting.one_layer("resnet18", "layer1.0.conv1", 2).spec.N == 2
    with pytest.raises(NetError, match=r"nearest: layer1.0.conv1"):
        inspecting.one_layer("resnet18", "layer1.0.conv11", 1)
    with pytest.raises(ArgumentError, match=r"such as conv1, .*lists them"):
        inspecting.one_layer("resnet18", None, 1)
    with pytest.raises(ArgumentError, match="a layer already"):
        inspecting.one_layer("relu 2x64x8x8", "conv1", 1)


def test_a_stage_that_a_backend_has_not(capsys):
    assert main(["inspect", "relu 2x64x8x8", "--stage", "ttir", "--backend", "cuda"]) == 2
    assert "expected cuda, ptx, sass" in capsys.readouterr().err
    assert main(["inspect", "relu 2x64x8x8", "--stage", "sas"]) == 2
    assert "nearest: sass" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "stage", "begins"), [("triton", "ttgir", "#"), ("cuda", "cuda", "#line 1")])
def test_a_layer_compiled(backend, stage, begins, capsys):
    """From this process, which may interpret kernels: the machine code, its main loop with source lines, and a text stage."""
    layer = "conv 32x64x56x56 64 3x3 p1"
    assert main(["inspect", layer, "--arch", "sm_80", "--backend", backend, "--json"]) == 0
    (launch, *_) = json.loads(capsys.readouterr().out)["launches"]
    loop, own = launch["main_loop"], [one for one in launch["instructions"] if one["every_round"]]
    assert loop["mix"]["tensor"] > 0 and launch["spills"] == launch["stack_bytes"] == 0
    assert loop["instructions_every_round"] == len(own) and sum(launch["mix"].values()) == len(launch["instructions"])
    lines = {line.rsplit(":", 1)[0] for one in own for line in one["lines"]}
    assert any(line.startswith("kernels/") for line in lines), lines
    assert {one["reads"] for one in launch["shared_memory"]} == {1} and 0 < launch["issue"]["always"]
    assert main(["inspect", layer, "--arch", "sm_80", "--backend", backend]) == 0
    text = capsys.readouterr().out
    assert "The main loop lies at" in text and "Predicted: a round takes the tensor pipe" in text and "HMMA" in text
    assert main(["inspect", layer, "--arch", "sm_80", "--backend", backend, "--stage", stage]) == 0
    assert capsys.readouterr().out.startswith(begins)

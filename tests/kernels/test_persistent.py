"""Runs of layers as one launch: every layer held to its own bound, in adversarial orders of blocks, and with faults planted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from block_cases import hold_both, meta, run
from kernel_cases import guarded, hold
from planting import copied_kernels, plant

import convatlas
from convatlas import nets
from convatlas.call import Call
from convatlas.codegen.block_calls import LATE, persistent
from convatlas.errors import BackendError, ShapeError
from convatlas.kernels.backend import launches, room
from convatlas.kernels.common.override import override
from convatlas.kernels.common.target import TARGETS
from convatlas.kernels.persistent import configs
from convatlas.kernels.persistent.configs import BM, NOTHING, Parts, table
from convatlas.ops.backend_numpy import as_array
from convatlas.ops.block import block
from convatlas.reference import check, truth
from convatlas.specs import BlockSpec, Conv2dSpec, Epilogue, Part
from convatlas.study.layer import Layer
from convatlas.verify.single import operands


def chain(shape: tuple[int, int, int, int], *layers: tuple, dtype: str = "float16") -> Call:
    """Layers one after another, each (filters, window, stride, padding, epilogue)."""
    parts, source = [], "input"
    for i, (filters, (R, S), stride, padding, epilogue) in enumerate(layers):
        spec = Conv2dSpec.of(shape, (filters, shape[1], R, S), stride, padding)
        parts.append(Part(f"c{i}", "conv2d", spec, epilogue, (("input", source),)))
        shape, source = spec.output_shape, f"c{i}"
    return Call("block", BlockSpec.of("persistent", tuple(parts), dtype), dtype=dtype)


RELU = Epilogue(True, "relu")
CASES = {
    # Two bottlenecks, the first with stride 2 and downsampling: tiles whose pixels end within them.
    "bottlenecks": lambda dtype: persistent((1, 64, 10, 9), [(64, 128, 2), (64, 128, 1)], dtype),
    # Two images in a tile, a padding of two sides, windows that are no squares, no bias, every activation that it has.
    "windows": lambda dtype: chain(
        (2, 64, 7, 6), (64, (3, 1), 1, ((2, 0), (0, 1)), RELU), (128, (2, 5), (2, 1), 2, Epilogue()),
        (32, (1, 1), 1, 0, Epilogue(True, "relu6")), dtype=dtype,
    ),
    # Five tiles of pixels, and sums in as many parts as there are steps.
    "tiles": lambda dtype: chain((1, 192, 17, 17), (64, (1, 1), 1, 0, RELU), (32, (3, 3), 1, 1, RELU), dtype=dtype),
}  # fmt: skip


# Parts of each sum: one, several of more than one step and of unequal numbers, and as many as there are steps.
PARTS = [1, 2, 16]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_runs_are_right(case: str, dtype: str, parts: int, poisoned: None) -> None:
    call = CASES[case](dtype)
    assert room("persistent", "takes")(call.spec, dtype)
    with override(Parts(parts)):
        hold_both(call)


def hold_layers(call: Call, device: str = "cpu") -> None:
    """Holds each layer's map, as it lies in the workspace, to the layer's own bound on what the layers before it left there."""
    dtype = getattr(torch, call.dtype)
    given = operands(Layer("", call), dtype, torch.device(device), 0)
    out = torch.full(call.spec.output_shape, torch.nan, dtype=dtype, device=device)
    out = out.contiguous(memory_format=torch.channels_last)
    listed = launches(replace(call, backend="cuda"), given, out)
    maps = listed[0].arguments["maps"].fill_(torch.nan)
    for launch in listed:
        launch.run()
    made = {"input": given["input"]}
    target = TARGETS["sm_90"]
    for row in table(call.spec, target).rows:
        part, (N, K, P, Q) = row.part, row.part.spec.output_shape
        size = N * K * P * Q
        found = out if row.map < 0 else maps[row.map : row.map + size].view(N, P, Q, K).permute(0, 3, 1, 2)
        arrays = {
            name: as_array((made[source] if source in made else given[source]).reshape(shape))
            for name, (source, shape) in part.operands.items()
        }
        report = check(as_array(found), truth("conv2d", part.spec, part.epilogue, arrays), dtype=call.dtype)
        assert report.ok, f"{part.name}: {report.detail}"
        made[part.name] = found


def test_every_layer_of_a_long_run(poisoned: None) -> None:
    """The last map of 14 layers has a wide bound; so each layer is held to its own, on what the kernel itself made before it."""
    with override(Parts(3)):
        hold_layers(persistent((1, 64, 12, 12), [(64, 128, 2), (64, 128, 1), (64, 192, 2), (64, 192, 1)]))


ORDERS = ("first", "last", "turns", "starved", *map(str, range(1, 9)))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_the_order_of_blocks_does_not_matter(blocks: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block that runs ahead, the last one first, each in turn, one that is starved, at random: no deadlock, the same bits."""
    call = CASES["bottlenecks"]("float16")
    with override(Parts(parts)):
        assert table(call.spec, TARGETS["sm_90"]).tasks > 3 * blocks
        expected = run(call)
        monkeypatch.setenv("CONVATLAS_BLOCKS", str(blocks))
        for order in ORDERS:
            monkeypatch.setenv("CONVATLAS_ORDER", order)
            monkeypatch.setenv("CONVATLAS_REVERSE", str(len(order) % 2))
            assert torch.equal(run(call), expected), order


def test_outside_of_the_output_nothing_is_written() -> None:
    call = CASES["windows"]("float16")
    N, K, P, Q = call.spec.output_shape
    out, unchanged = guarded(call.spec.output_shape, torch.float16, "cpu", "nhwc")
    hold(lambda: run(call, out=out))  # not aligned: computed elsewhere and copied
    unchanged()
    whole = torch.full((N + 2, P, Q, K + 16), 777.0, dtype=torch.float16)
    inside = whole[1:-1, :, :, 8:-8]
    hold(lambda: run(call, out=inside.permute(0, 3, 1, 2)))
    inside.fill_(777.0)
    assert (whole == 777.0).all()


def test_operands_in_other_orders() -> None:
    """An input and an output that are contiguous as NCHW, an input in a slice, and weights two bytes beside a vector's place."""
    call = CASES["bottlenecks"]("float16")
    layer = Layer("", call)
    given = {name: x.contiguous() for name, x in operands(layer, torch.float16, torch.device("cpu"), 0).items()}
    expected = block(call.spec, given, backend="cuda")
    wide = torch.full((1, 10, 9, 80), 777.0, dtype=torch.float16)
    wide[..., 8:-8] = given["input"].permute(0, 2, 3, 1)
    given["input"] = wide[..., 8:-8].permute(0, 3, 1, 2)
    for name in ("layer1.bias", "layer2.weight"):
        given[name] = torch.cat([torch.zeros(1).half(), given[name].flatten()])[1:].view(given[name].shape)
    assert torch.equal(block(call.spec, given, backend="cuda"), expected)


# ---- faults planted in the code


FAULTS = {
    "a counter that nobody reaches": (".tiles());", ".tiles() + 1);", "wait for a counter that no block will change"),
    "no wait for the input": ("wait_for(l.from), wait_for(l.plus)", "wait_for(l.plus)", "layer"),
    "no wait for the shortcut": ("wait_for(l.from), wait_for(l.plus)", "wait_for(l.from)", "layer"),
    "one part too few": ("part < l.split;", "part < l.split - 1;", "layer"),
    "a tap too far": ("if (++s == S) s = 0, ++r;", "if (++s == S) s = 0, r += 2;", "layer"),
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the kernels that a test may change, in the place of kernels/."""
    with copied_kernels(tmp_path, monkeypatch, "bottleneck", "persistent") as root:
        yield root / "persistent" / "persistent.cu"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, message = FAULTS[fault]
    plant(planted, right, wrong)
    call = persistent((1, 64, 10, 9), [(64, 128, 2), (64, 128, 1)])
    with override(Parts(4)), pytest.raises((AssertionError, BackendError), match=message):
        for order in ORDERS:
            monkeypatch.setenv("CONVATLAS_ORDER", order)
            hold_layers(call)


# ---- the table


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_tasks_wait_for_lower_ones_only(target: str) -> None:
    """What the proof of progress rests on; and no two layers that may run at once share counters or partial sums."""
    call = replace(persistent((1, 512, 28, 28), LATE), backend="cuda")
    assert str(call.spec).endswith("256x28x28 1x1 -> ... 26 more -> 2048x7x7 1x1")
    found = table(call.spec, TARGETS[target])
    before: list[set[int]] = []
    for i, row in enumerate(found.rows):
        reads = {source - 1 for source in row.sources if 0 < source < NOTHING}
        assert all(j < i for j in reads)
        before.append(reads.union(*(before[j] for j in reads)))
        assert row.first == sum(other.tasks for other in found.rows[:i])
        for j, other in enumerate(found.rows[:i]):
            apart = row.slot + row.tasks <= other.slot or other.slot + other.tasks <= row.slot
            assert apart or j in before[i] or 1 in (row.split, other.split)
            assert row.counter >= other.counter + (other.tiles if other.split > 1 else 0)
        assert found.words >= row.counter + (row.tiles if row.split > 1 else 0)
    assert found.rows[-1].map == -1 and {row.split for row in found.rows} > {1}
    clear, main = launches(call, *meta(call), TARGETS[target])
    assert clear.grid == (1,) and main.grid[0] <= 2 * TARGETS[target].sms
    assert (
        len(main.packed) <= 4096
    )  # what a launch may pass: CUDA C++ Programming Guide, "__global__ Function Parameters"
    assert 2 * (main.shared + 1024) <= TARGETS[target].shared + 1024  # both blocks of an SM fit


def test_more_parts_where_tiles_are_few() -> None:
    """A tile of 4,608 products is summed in several parts where 16 tiles would leave most SMs without one; 128 tiles are not."""
    window = Conv2dSpec.of((1, 512, 7, 7), (512, 512, 3, 3), 1, 1)
    wide = Conv2dSpec.of((1, 256, 14, 14), (1024, 256, 1, 1))
    assert configs.tiles(window) == 16 and configs.split_for(window, 132) > 4
    assert configs.tiles(wide) == 128 and configs.split_for(wide, 132) == 1
    assert configs.tiles(wide) == -(-14 * 14 // BM) * 32


def test_what_no_kernel_takes() -> None:
    takes = room("persistent", "takes")
    spec = CASES["bottlenecks"]("float16").spec
    assert not takes(spec, "float32") and not takes(spec, "bfloat16")  # stored in float16
    assert not takes(replace(spec, parts=spec.parts[:1]), "float16")  # one layer
    for shape, layer in (
        ((1, 64, 33, 32), (64, (1, 1), 1, 0, RELU)),  # more than 1,024 pixels
        ((1, 96, 8, 8), (64, (1, 1), 1, 0, RELU)),  # channels that are no whole steps
        ((1, 64, 8, 8), (48, (1, 1), 1, 0, RELU)),  # filters that are no whole tiles
        ((1, 64, 8, 8), (64, (1, 1), 1, 0, Epilogue(True, "silu"))),
    ):
        assert not takes(
            chain(shape, layer, layer if shape[1] == layer[0] else (64, (1, 1), 1, 0, RELU)).spec, "float16"
        )


def test_too_wide_an_input_is_refused() -> None:
    call = replace(CASES["tiles"]("float16"), backend="cuda")
    given, out = meta(call)
    given["input"] = torch.empty(1, 17, 17, 1 << 23, dtype=torch.float16, device="meta")[..., :192].permute(0, 3, 1, 2)
    with pytest.raises(ShapeError, match="persistent"):
        launches(call, given, out, TARGETS["sm_90"])


# ---- in plans


class Net(torch.nn.Module):
    """A stem, two residual blocks whose maps are small, and one on them that reads two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 64, 3, 2, 1)
        self.down = torch.nn.Conv2d(64, 128, 1, 2)
        self.reduce = torch.nn.Conv2d(64, 64, 1)
        self.window = torch.nn.Conv2d(64, 64, 3, 2, 1)
        self.expand = torch.nn.Conv2d(64, 128, 1)
        self.again = torch.nn.ModuleList([torch.nn.Conv2d(128, 64, 1), torch.nn.Conv2d(64, 128, 3, 1, 1)])
        for name, x in self.named_parameters():  # small integers, whose sums are exact in float16
            draw = torch.Generator().manual_seed(len(name))
            few = (torch.rand(x.shape, generator=draw) < 0.02) * torch.randint(-1, 2, x.shape, generator=draw)
            x.data.copy_(few)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (self.expand(self.window(self.reduce(x).relu()).relu()) + self.down(x)).relu()
        x = (self.again[1](self.again[0](x).relu()) + x).relu()
        return x.mean((2, 3))


def test_a_networks_last_layers_become_a_run() -> None:
    """All but the stem, whose channels are 3: one step, which computes what the layers do one after another."""
    module = Net().half().eval()
    x = torch.randint(-2, 3, (2, 3, 30, 26)).half()
    plans = [convatlas.compile(module, x, backend="cuda", fuse=fuse) for fuse in ("none", {"persistent"})]
    apart, together = (plan(x) for plan in plans)
    assert torch.equal(apart, together) and 1 < apart.max() < 64
    (found,) = [layer for layer in plans[1].layers if layer.op == "block"]
    assert len(found.parts) == 6 and [k.name.split("<")[0] for k in found.kernels] == ["persistent_clear", "persistent"]
    assert len(plans[0].layers) - len(plans[1].layers) == 5


def test_a_map_that_others_read_ends_a_run() -> None:
    """A value that the caller gets, too, is a run's last one; a second value from outside is none of its layers'."""

    class Forked(Net):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            x = self.stem(x).relu()
            inner = self.reduce(x).relu()
            x = self.expand(self.window(inner).relu())
            return self.again[1](self.again[0](x).relu()), inner

    plan = convatlas.compile(
        Forked().half().eval(), torch.zeros(1, 3, 30, 26).half(), backend="numpy", fuse={"persistent"}
    )
    assert [(layer.path, len(layer.parts)) for layer in plan.layers] == [("stem", 0), ("reduce", 0), ("window", 4)]


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_runs_are_right_on_a_gpu(case: str, dtype: str, poisoned: None) -> None:
    hold_both(CASES[case](dtype), "cuda")


@pytest.mark.gpu
def test_the_last_stages_on_a_gpu() -> None:
    """Every layer of ResNet-50's last two stages within its bound, and 50 times the same bits."""
    call = persistent((1, 512, 28, 28), LATE)
    hold_layers(call, "cuda")
    expected = run(call, "cuda")
    assert all(torch.equal(run(call, "cuda"), expected) for _ in range(50))


@pytest.mark.gpu
def test_a_plans_graph_replays_a_run_on_a_gpu() -> None:
    """The counters are set anew at each replay of the graph."""
    module = nets.create("resnet50", seed=0).half().cuda()
    x = torch.randn(1, 3, 224, 224, device="cuda").half()
    plan = convatlas.compile(module, x, fuse={"persistent"})
    expected = plan(x).clone()
    assert all(torch.equal(plan(x), expected) for _ in range(20))

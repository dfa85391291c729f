"""Plans as files: the same results after loading, and one line for whatever is wrong with a file."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import convatlas
from convatlas.errors import ArgumentError, InputError, ShapeError
from convatlas.plan import saved
from convatlas.plan.plan import compile, load_plan
from convatlas.study.tracing import plan_layers
from convatlas.verify.check import checking


class Branches(nn.Module):
    """Folded norm, siblings, a concatenation, a residual, ops of PyTorch's with scalars, several outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = torch.cat([torch.relu(self.a(x) + x), nn.functional.elu(self.b(x), alpha=0.5)], 1)
        y = nn.functional.max_pool2d(y, 3, 2, 1).clamp(-1.0, float("inf"))
        return {"logits": self.fc(y.mean((2, 3))), "map": (y, x)}


def module():
    torch.manual_seed(0)
    net = Branches().eval()
    net.norm.running_mean.normal_()
    return net


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A plan of two batch sizes."""
    plan = compile(module(), torch.randn(2, 3, 9, 7), backend="numpy")
    with torch.no_grad():
        plan(torch.randn(1, 3, 9, 7))
    path = tmp_path_factory.mktemp("plans") / "x.plan"
    plan.save(path)
    return path


@pytest.mark.parametrize("batch", [2, 1])
def test_a_loaded_plan_computes_the_same_and_can_be_saved_again(file, tmp_path, batch):
    plan, x = load_plan(file), torch.randn(batch, 3, 9, 7)
    net = module()
    expected = compile(net, torch.randn(2, 3, 9, 7), backend="numpy")(x)
    with torch.no_grad():
        right = net(x)
    y = plan(x)
    assert torch.equal(y["logits"], expected["logits"]) and torch.equal(y["map"][0], expected["map"][0])
    assert isinstance(y["map"], tuple) and y["map"][1].stride() == right["map"][1].stride()
    torch.testing.assert_close(y["logits"], right["logits"])
    plan.program((x,))
    plan.save(tmp_path / "again.plan")
    assert torch.equal(
        load_plan(tmp_path / "again.plan")(torch.ones(2, 3, 9, 7))["logits"], plan(torch.ones(2, 3, 9, 7))["logits"]
    )


@pytest.mark.parametrize(
    "name, dtype", [("resnet18", "float16"), ("squeezenet1_1", "bfloat16"), ("mobilenet_v2", "float32")]
)
def test_networks(tmp_path, name, dtype):
    net, x = (
        convatlas.nets.create(name, seed=0).to(getattr(torch, dtype)),
        torch.randn(1, 3, 32, 32).to(getattr(torch, dtype)),
    )
    plan = compile(net, x, backend="numpy")
    plan.save(tmp_path / "x.plan")
    loaded = convatlas.load_plan(tmp_path / "x.plan")
    assert torch.equal(loaded(x), plan(x))
    assert plan_layers(loaded) == plan_layers(plan) and loaded.report() == plan.report()
    with checking() as report:
        loaded(x)
    assert report.ok and len(report) == len(plan_layers(plan))


def test_another_process_loads_it_without_the_module(file):
    code = f"import convatlas, torch; print(convatlas.load_plan({str(file)!r})(torch.ones(2, 3, 9, 7))['logits'].sum().item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert float(done.stdout) == load_plan(file)(torch.ones(2, 3, 9, 7))["logits"].sum().item(), done.stderr


def test_what_a_loaded_plan_has_not(file):
    plan = load_plan(file)
    with pytest.raises(ShapeError, match="expected one that was saved: 2x3x9x7, 1x3x9x7"):
        plan(torch.randn(3, 3, 9, 7))
    with pytest.raises(ShapeError, match="as the example"):
        plan(torch.randn(2, 3, 9, 8))
    with pytest.raises(ArgumentError, match="no module"):
        plan.refresh()


def refused(path) -> str:
    with pytest.raises(InputError) as error:
        load_plan(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_damaged_byte_is_refused(file, tmp_path):
    """A bit of a byte in every 37, and of all bytes at the seams: the length, the header's begin and end, the hash."""
    data, path = file.read_bytes(), tmp_path / "x.plan"
    end = 8 + int.from_bytes(data[:8], "little")
    at = data.index(b'"sha256"')
    places = {*range(0, len(data), 37), *range(24), *range(end - 16, end + 8), *range(at - 4, at + 80), len(data) - 1}
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        said = refused(path)
        assert "is damaged" in said or "is no plan" in said, (place, said)


def test_a_file_cut_anywhere_or_with_more_behind_it_is_refused(file, tmp_path):
    data, path = file.read_bytes(), tmp_path / "x.plan"
    for end in (*range(0, 40, 3), *range(40, len(data), 997), len(data) - 1):
        path.write_bytes(data[:end])
        refused(path)
    path.write_bytes(data + b"\0")
    assert "is damaged" in refused(path)


def test_other_files_are_refused(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "bare.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors", {"sha256": "0" * 64})
    torch.save(module().state_dict(), tmp_path / "x.pth")
    (tmp_path / "x.json").write_text("{}")
    for name in ("bare.safetensors", "other.safetensors", "x.pth", "x.json"):
        assert "is no plan, expected a file that plan.save wrote" in refused(tmp_path / name)
    assert "no such file" in refused(tmp_path / "gone") and "not a file" in refused(tmp_path)


def test_a_newer_format_and_another_architecture_are_refused(file, tmp_path, monkeypatch):
    path = tmp_path / "x.plan"
    plan = load_plan(file)
    with monkeypatch.context() as patch:
        patch.setattr(saved, "FORMAT", 2)
        plan.save(path)
    assert "has format 2 of convatlas" in refused(path) and "install a newer convatlas" in refused(path)
    with monkeypatch.context() as patch:
        patch.setattr("convatlas.plan.plan.architecture", lambda device: "sm_90")
        plan.save(path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "made for sm_90, and here is cpu" in refused(path)


def test_nothing_is_unpickled_and_no_op_but_pytorchs_is_found(file, monkeypatch):
    def never(*args, **keywords):
        raise AssertionError("pickle was used")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, never)
    assert load_plan(file).name == "Branches"
    for target in ("os.system.default", "aten.no_such_op.default", "aten", "convatlas.conv2d.default"):
        with pytest.raises(InputError, match="has no op"):
            saved._target(target)
    with pytest.raises(InputError, match="no dtype"):
        saved._of_torch("dtype", "load")


def test_a_file_that_cannot_be_written_is_one_line_and_nothing_is_left(file, tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        load_plan(file).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_make_no_plan_are_one_line(file, tmp_path, monkeypatch):
    """With a right hash, as no accident makes it."""
    right = saved._Writer.program
    for broken in ({}, {"inputs": []}, {"steps": [[]]}, {"places": {}}, {"tree": "x"}, {"shapes": 1}):
        with monkeypatch.context() as patch:
            patch.setattr(saved._Writer, "program", lambda *a, broken=broken: {**right(*a), **broken} if broken else {})
            load_plan(file).save(tmp_path / "x.plan")
        if broken != {"inputs": []}:
            assert "cannot be read as a plan" in refused(tmp_path / "x.plan"), broken


def test_a_loaded_plan_that_keeps_no_more_programs_makes_room(file, monkeypatch):
    expected = [load_plan(file)(torch.ones(batch, 3, 9, 7))["logits"] for batch in (2, 1)]
    monkeypatch.setattr("convatlas.plan.plan.SHAPES", 1)
    plan = load_plan(file)
    for _ in range(2):
        for batch, right in zip((2, 1), expected):
            assert torch.equal(plan(torch.ones(batch, 3, 9, 7))["logits"], right)

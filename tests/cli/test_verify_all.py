"""convatlas verify all: a row a net, JSON, exit codes, its own options."""

import json

import pytest

from convatlas.cli import main
from convatlas.ops import backends
from convatlas.verify import verify_all as whole

NETS = ["squeezenet1_1", "resnet18"]


@pytest.fixture
def run(capsys, monkeypatch):
    """run(arguments) -> (exit code, stdout, stderr), with two nets for all, on the reference backend."""
    monkeypatch.setattr(whole, "names", lambda: NETS)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["verify", "all", "--backend", "numpy", "--dtype", "float32", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def fault(monkeypatch):
    """The third convolution is off by 1 in its first element."""
    original, calls = backends.runner, []

    def runner(name):
        def wrong(call, tensors, out):
            y = original(name)(call, tensors, out)
            if call.op == "conv2d":
                calls.append(call)
                y[0, 0, 0, 0] += len(calls) == 3
            return y

        return wrong

    monkeypatch.setattr(backends, "runner", runner)


def test_text(run):
    code, out, err = run("--size", "32")
    assert code == 0 and err == ""
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(tuple(NETS))}
    assert rows["resnet18"][1:3] == ["32", "23"] and rows["squeezenet1_1"][1:3] == ["32", "30"]
    assert all(row[-1] == "ok" for row in rows.values())
    assert "2 networks verified in" in out and "among 53" in out


def test_json(run):
    code, out, _ = run("--size", "32", "--json")
    result = json.loads(out)
    assert code == 0 and result["ok"] and (result["backend"], result["dtype"]) == ("numpy", "float32")
    assert [net["net"] for net in result["nets"]] == NETS
    assert all(net["ok"] and net["wrong_layers"] == [] and 0 < net["worst"] <= 1 for net in result["nets"])
    assert result["nets"][1]["input_shape"] == [1, 3, 32, 32]


def test_a_fault_is_exit_code_one_and_named(run, fault):
    code, out, _ = run("--size", "32")
    assert code == 1
    assert "squeezenet1_1 features.3.expand1x1 (" in out and "conv2d: y[0, 0, 0, 0]" in out
    assert "NOT verified: squeezenet1_1;" in out


def test_a_fault_in_json(run, fault):
    code, out, _ = run("--size", "32", "--json")
    result = json.loads(out)
    assert code == 1 and not result["ok"]
    (wrong,) = result["nets"][0]["wrong_layers"]
    assert wrong["path"] == "features.3.expand1x1" and "y[0, 0, 0, 0]" in wrong["detail"]


def test_native_is_the_default(run, monkeypatch):
    sizes = []
    monkeypatch.setattr(whole, "verify_all", lambda chosen, size, *rest, **more: sizes.append(size) or [])
    assert run()[0] == run("--size", "native")[0] == run("--size", "64")[0] == 0
    assert sizes == [None, None, 64]


@pytest.mark.parametrize(
    "arguments, named",
    [(("--worst", "3"), "'--worst'"), (("--size", "huge"), "'--size'"), (("--dtype", "int8"), "int8")],
)
def test_bad_usage_is_one_line(run, arguments, named):
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and named in err and len(err.splitlines()) == 1

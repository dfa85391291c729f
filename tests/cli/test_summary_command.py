"""convatlas summary and convatlas nets: the same numbers as text, JSON and CSV, in terminals of every width."""

import csv
import io
import json
import sys
from functools import cache

import pytest

from convatlas import nets
from convatlas.cli.columns import Column, show
from convatlas.cli.output import console
from convatlas.study import summarise
from convatlas.study.numbers import percent, short


def test_summary(ask):
    code, out, err = ask("summary", "resnet18", "--size", "64", "--batch", "2", "--dtype", "float32")
    expected = summarise("resnet18", 64, 2, "float32")
    assert (code, err) == (0, "")
    assert "resnet18, 2x3x64x64, float32" in out and f"MACs: {expected.macs:,}; FLOPs: {expected.flops:,}" in out
    assert "parameters: 11,689,512\n" in out and "18 on the longest path, 21 in all" in out
    assert "counted:" in out and "running statistics" in out and "not shown" not in out
    rows = [line for line in out.splitlines() if line.startswith("layer2.0.conv1 ")]
    assert len(rows) == 1 and "conv 3x3 /2" in rows[0] and "128x8x8" in rows[0]


def test_summary_as_json(ask):
    code, out, _ = ask("summary", "alexnet_2012", "--json")
    data, expected = json.loads(out), summarise("alexnet_2012")
    assert code == 0 and data["input_shape"] == [1, 3, 227, 227] and data["total"] == expected.totals()
    assert data["layers"] == [row.as_dict() for row in expected.rows]
    assert sum(layer["parameters"] for layer in data["layers"]) == data["total"]["parameters"] == 60_965_224


def test_summary_as_csv(ask):
    code, out, _ = ask("summary", "alexnet_2012", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 13
    assert sum(int(row["macs"]) for row in rows) == summarise("alexnet_2012").macs
    assert rows[0]["window"] == "11x11 /4" and rows[0]["receptive_field"] == "11"


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet"])
def test_every_row_keeps_its_numbers_in_any_terminal(terminal, columns, name):
    lines = terminal(columns, "summary", name)
    assert max(map(len, lines)) <= columns and "…" not in "".join(lines)
    for row in summarise(name).rows:
        start = row.path[: columns // 3]  # a long path folds where it must
        assert not row.macs or any(line.startswith(start) and short(row.macs) in line for line in lines)
    assert any("not shown for want of room" in line for line in lines) is (columns < 200)


@pytest.fixture
def counted_once(monkeypatch):
    """The nets' summaries are kept from one test to the next."""
    monkeypatch.setattr("convatlas.study.summary.summarise", kept)


kept = cache(summarise)


def test_nets(ask, counted_once):
    code, out, err = ask("nets")
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith(tuple(nets.names()))}
    assert (code, err) == (0, "") and set(rows) == set(nets.names())
    assert (
        rows["resnet152"].split()[1:5] == ["2015", "224", "152", "60.19M"] and "arXiv:1512.03385" in rows["resnet152"]
    )


def test_nets_as_json_and_csv(ask, counted_once):
    data = json.loads(ask("nets", "--json")[1])["nets"]
    rows = list(csv.DictReader(io.StringIO(ask("nets", "--csv")[1])))
    assert [row["net"] for row in rows] == [row["net"] for row in data] == nets.names()
    for row in data:
        shares = [value for key, value in row.items() if key.startswith("share_")]
        assert sum(shares) == pytest.approx(1, abs=1e-5) and row["paper"] and row["flops"] >= 2 * row["macs"]
    assert int(rows[0]["parameters"]) == data[0]["parameters"] == 60_965_224


@pytest.mark.parametrize("columns", [40, 80])
def test_nets_fit_a_terminal(terminal, counted_once, columns):
    lines = terminal(columns, "nets")
    assert max(map(len, lines)) <= columns and "…" not in "".join(lines)
    assert sum(line.startswith(tuple(nets.names())) for line in lines) == len(nets.names())


def test_the_least_important_columns_go_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    columns = [
        Column("name", ["a"], text=True),
        Column("one", ["1" * 6], 1),
        Column("two", ["2" * 6], 2),
        Column("also\ntwo", ["3"], 2),
    ]
    assert show(console(), columns) == ["two", "also two"]
    assert "111111" in capsys.readouterr().out


def test_short_numbers():
    assert [short(n) for n in (0, 17, 999, 1000, 117_964, 118_013_952, 3_629_978_112)] == [
        "0", "17", "999", "1.000k", "118.0k", "118.0M", "3.630G",
    ]  # fmt: skip
    assert short(1_925_632, "B") == "1.926 MB" and short(12, "B") == "12 B"
    assert [percent(x) for x in (0, 0.001, 0.455, 1)] == ["", "<1", "46", "100"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("summary", "resnet19"), "nearest: resnet18"),
        (("summary", "resnet18", "--size", "0"), "'--size'"),
        (("summary", "resnet18", "--batch", "0"), "'--batch'"),
        (("summary", "resnet18", "--dtype", "int8"), "int8"),
        (("summary", "alexnet", "--size", "16"), "smallest"),
        (("summary", "resnet18", "--json", "--csv"), "give one of them"),
        (("nets", "--json", "--csv"), "give one of them"),
        (("nets", "resnet18"), "unexpected extra argument"),
        (("summary",), "missing, expected a network or --plan-file FILE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_goes_wrong_is_one_line(ask, arguments, says):
    code, out, err = ask(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("convatlas: ") and says in err and err.count("\n") == 1 and "Traceback" not in err


MODULE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
    def forward(self, x):
        return torch.tanh(self.conv(x))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    path = tmp_path / "summarised_by_a_test.py"
    path.write_text(MODULE)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    yield f"{path}:Net"
    sys.modules.pop(path.stem, None)


def test_a_users_module_as_text(ask, module):
    code, out, err = ask("summary", module, "--input", "2x1x8x8")
    assert (code, err) == (0, "") and f"{module}, 2x1x8x8, float16" in out
    assert f"MACs: {2 * 36 * 4 * 9:,};" in out
    assert "warning: run but NOT counted" in out and "tanh (1)" in out


def test_a_users_module_as_json_and_csv(ask, module):
    data = json.loads(ask("summary", module, "--input", "2x1x8x8", "--json")[1])
    assert data["not_counted"] == [{"path": "", "op": "tanh", "output_shape": [2, 4, 6, 6]}]
    assert [layer["run_by"] for layer in data["layers"]] == ["torch"]
    conv, tanh = csv.DictReader(io.StringIO(ask("summary", module, "--input", "2x1x8x8", "--csv")[1]))
    assert conv["macs"] == "2592" and (tanh["run_by"], tanh["macs"]) == ("torch, not counted", "")


def test_torchvisions_net(ask):
    pytest.importorskip("torchvision")
    code, out, err = ask("summary", "torchvision:resnet18")
    assert (code, err) == (0, "") and "MACs: 1,814,073,344;" in out and "warning" not in out


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--size", "8"), "on an input of 1x3x8x8"),  # 3 channels for 1; the rest is torch's message
        (("--input", "1x1"), "on an input of 1x1"),
        (("--input", "1xx8x8"), "'--input'"),
        (("--input", "0x1x8x8"), "at least 1"),
        (("--input", "1x1x8x8", "--batch", "2"), "give one of them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_a_users_module_is_one_line(ask, module, arguments, says):
    code, out, err = ask("summary", module, *arguments)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1

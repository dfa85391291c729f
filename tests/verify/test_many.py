"""Many pictures: the same file however often a run is killed and by however many processes; bad files are lines; clear refusals."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_net
import torch
from PIL import Image
from rotation import by_turns

from convatlas import nets
from convatlas.cli import main
from convatlas.errors import InputError
from convatlas.nets import registry
from convatlas.nets.checkpoint import digest
from convatlas.verify.classify import classify
from convatlas.verify.many import Share
from convatlas.verify.pictures import listed

ROOT = Path(__file__).resolve().parents[2]
SHARES = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    """The small net is in the registry while this file runs, and no longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "NETS", dict(registry.NETS))
        tiny_net.register()
        for name in SHARES:
            patch.delenv(name, raising=False)
        yield
    sys.modules.pop("convatlas.nets.tiny")


@pytest.fixture(scope="module")
def work(tmp_path_factory, _tiny) -> Path:
    """A folder with pictures/ (23 and one that is none), weights, and what lies beside pictures in real folders."""
    work = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for i in range(23):
        path = work / "pictures" / f"{'abc'[i % 3]}" / f"{i:02d}.{'png' if i % 2 else 'JPG'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9 + i, 20, 3), np.uint8)).save(path, "png" if i % 2 else "jpeg")
    (work / "pictures/b/broken.png").write_bytes(b"no picture")
    for name in ("notes.txt", "a/._00.jpg", ".hidden.png"):
        (work / "pictures" / name).write_bytes(b"")
    (work / "pictures/c/up").symlink_to("..")
    torch.save(nets.create("tiny", seed=3).state_dict(), work / "w.pth")
    return work


def arguments(work: Path, out: Path, *more: str) -> list[str]:
    return [
        "classify", str(work / "pictures"), "--out", str(out), "--net", "tiny", "--weights", str(work / "w.pth"),
        "--backend", "numpy", "--top", "3", "--batch", "4", "--workers", "1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(work) -> bytes:
    """The file of a run that nothing disturbs."""
    assert main(arguments(work, work / "whole.jsonl")) == 1
    return (work / "whole.jsonl").read_bytes()


def process(work: Path, out: Path, *more: str, torchrun: int = 0, **environment: str) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={torchrun}", "--master-port=0"] if torchrun else []
    command = [sys.executable, *launcher, str(ROOT / "tests/tiny_net.py"), *arguments(work, out, *more)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **environment}, **pipes)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(run: subprocess.Popen, path: Path, count: int) -> None:
    """Kills a run, as a machine that goes down, once the file has so many lines."""
    end = time.monotonic() + 60
    while lines(path) < count and run.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()


def test_every_picture_has_its_line_and_is_what_classify_says(work, whole):
    head, *found = map(json.loads, whole.splitlines())
    assert (head["net"], head["batch"], head["images"]) == ("tiny", 4, 24)
    assert head["weights"] == digest(torch.load(work / "w.pth", weights_only=True))
    assert [line["path"] for line in found] == listed(str(work / "pictures"))
    assert len(found) == 24 and found[-1]["path"].endswith("c/20.JPG")
    for line in found:
        if "broken" in line["path"]:
            assert set(line) == {"path", "error"} and "cannot be read" in line["error"]
            continue
        assert [p["name"] for p in line["predictions"]] == [None] * 3
        one = classify(line["path"], "tiny", work / "w.pth", "numpy", top=3)
        assert [p["class"] for p in line["predictions"]] == [p.index for p in one.predictions]
        assert [p["probability"] for p in line["predictions"]] == pytest.approx(
            [p.probability for p in one.predictions]
        )


def test_a_run_in_a_pipe_is_quiet_and_counts(work, whole, tmp_path, capsys):
    assert main(arguments(work, tmp_path / "x.jsonl")) == 1
    out, err = capsys.readouterr()
    assert (
        "24 pictures" in out
        and "images/s" in out
        and out.splitlines()[-1] == "23 of 24 pictures classified, 1 could not be"
    )
    assert err.count("\n") == 1 and "broken.png: cannot be read" in err
    assert main(arguments(work, tmp_path / "x.jsonl", "--json")) == 1
    again = json.loads(capsys.readouterr().out)
    assert (again["kept"], again["total_failed"], again["complete"]) == (24, 1, True)
    assert (tmp_path / "x.jsonl").read_bytes() == whole


def test_without_workers_from_a_list_and_all_well(work, tmp_path, capsys):
    good = [p for p in listed(str(work / "pictures")) if "broken" not in p][::-1][:5]
    (tmp_path / "list.txt").write_bytes("\r\n".join([*good[:2], "", *good[2:]]).encode())
    command = arguments(work, tmp_path / "x.jsonl", "--workers", "0")
    command[1] = str(tmp_path / "list.txt")
    assert main(command) == 0
    assert [json.loads(line).get("path") for line in (tmp_path / "x.jsonl").open()][1:] == good
    assert "5 of 5 pictures classified" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_by_a_plan(work, whole, tmp_path, dtype):
    assert main(arguments(work, tmp_path / "x.jsonl", "--plan", "--dtype", dtype)) == 1
    found = [json.loads(line) for line in (tmp_path / "x.jsonl").open()]
    assert found[0]["plan"] is True
    for line, expected in zip(found[1:], list(map(json.loads, whole.splitlines()))[1:]):
        for p, q in zip(line.get("predictions", ()), expected.get("predictions", ())):
            assert p["probability"] == pytest.approx(q["probability"], rel=1e-5 if dtype == "float32" else 1e-2)


def test_cut_anywhere_it_goes_on_to_the_same_file(work, whole, tmp_path):
    out, first = tmp_path / "x.jsonl", whole.index(b"\n")
    for end in (0, 5, first, first + 1, first + 9, len(whole) // 2, whole.rindex(b"\n", 0, -1) + 1, len(whole) - 1):
        out.write_bytes(whole[:end])
        assert main(arguments(work, out, "--workers", "0")) == 1
        assert out.read_bytes() == whole, end


@pytest.mark.slow
def test_killed_and_resumed_is_as_undisturbed(work, whole, tmp_path):
    out = tmp_path / "x.jsonl"
    kill_at(process(work, out, TINY_SLEEP="0.4"), out, 6)
    assert 6 <= lines(out) < 25
    assert main(arguments(work, out)) == 1
    assert out.read_bytes() == whole


@pytest.mark.slow
@by_turns(3)
def test_two_processes_of_torchrun_killed_and_resumed(work, whole, tmp_path):
    out, parts = tmp_path / "x.jsonl", [tmp_path / "x.0-of-2.jsonl", tmp_path / "x.1-of-2.jsonl"]
    run = process(work, out, torchrun=2, TINY_SLEEP="0.5")
    end = time.monotonic() + 90
    while min(map(lines, parts)) < 5 and run.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True).stdout.split()
    for pid in (run.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    run.communicate()
    assert all(5 <= lines(part) < 13 for part in parts) and not out.exists()
    time.sleep(0.2)
    _, err = (run := process(work, out, torchrun=2)).communicate(timeout=120)
    assert out.read_bytes() == whole, err
    assert [path.name for path in tmp_path.iterdir()] == [
        "x.jsonl"
    ] and run.returncode == 1  # for the picture that is none


@pytest.mark.parametrize("world", [1, 2, 5, 9])
def test_shares_put_together_are_one_run(work, whole, tmp_path, monkeypatch, world):
    """By environment variables, one process after another; some of 9 have no batch of the 6."""
    out = tmp_path / "x.jsonl"
    for rank in reversed(range(world)):
        assert not out.exists()
        for name, value in zip(SHARES, (rank, world, rank, world)):
            monkeypatch.setenv(name, str(value))
        assert main(arguments(work, out, "--workers", "0")) == (1 if rank == 0 else 0)
    assert out.read_bytes() == whole and len(list(tmp_path.iterdir())) == 1
    assert main(arguments(work, out)) == 1  # all is done already
    assert out.read_bytes() == whole


def test_batches_are_dealt_out_whole_and_in_order():
    for batches in range(12):
        for world in range(1, 6):
            dealt = [list(Share(rank, world).of(batches)) for rank in range(world)]
            assert [i for part in dealt for i in part] == list(range(batches)) and max(map(len, dealt)) - min(
                map(len, dealt)
            ) <= 1


def refused(capsys, command: list[str]) -> str:
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("convatlas: ")
    return err


@pytest.mark.parametrize(
    "more, says",
    [
        (("--batch", "5"), "was begun with batch 4, and this run has 5"),
        (("--top", "2"), "was begun with top 3"),
        (("--plan",), "was begun with plan False"),
        (("--dtype", "float16"), "begun with dtype 'float32'"),
        (("--check",), "a check is of one picture"),
        (("--batch", "0"), "'--batch'"),
    ],
    ids=" ".join,
)
def test_other_options_are_refused_and_nothing_is_lost(work, whole, tmp_path, capsys, more, says):
    out = tmp_path / "x.jsonl"
    out.write_bytes(whole[: len(whole) // 2])
    assert says in refused(capsys, arguments(work, out, *more))
    assert out.read_bytes() == whole[: len(whole) // 2]


def test_other_files_are_refused_and_left_alone(work, whole, tmp_path, capsys):
    out, all_lines = tmp_path / "x.jsonl", whole.splitlines(keepends=True)
    swapped = b"".join([*all_lines[:2], all_lines[3], all_lines[2]])
    for text, says in (
        (b"my notes", "is no result of"),
        (b"{}\n", "is no result of"),
        (swapped, "line 3 is damaged"),
        (all_lines[0] + b"\0\0\n" + all_lines[2], "line 2 is damaged"),
        (whole + b"{}\n", "line 26 is damaged"),
    ):
        out.write_bytes(text)
        assert says in refused(capsys, arguments(work, out))
        assert out.read_bytes() == text


def test_one_run_at_a_time(work, whole, tmp_path, capsys):
    with open(tmp_path / "x.jsonl", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another run is writing" in refused(capsys, arguments(work, tmp_path / "x.jsonl"))


def test_other_numbers_of_processes_are_refused(work, whole, tmp_path, capsys, monkeypatch):
    out = tmp_path / "x.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(arguments(work, out, "--workers", "0")) == 0
    capsys.readouterr()
    for world in ("1", "3"):
        monkeypatch.setenv("WORLD_SIZE", world)
        assert "was begun by 2 processes" in refused(capsys, arguments(work, out))
    (tmp_path / "x.0-of-2.jsonl").unlink()
    out.write_bytes(whole[: len(whole) // 2])
    assert "was begun by one process" in refused(capsys, arguments(work, out))
    monkeypatch.setenv("RANK", "3")
    assert "expected RANK below it" in refused(capsys, arguments(work, out))
    monkeypatch.setenv("RANK", "x")
    assert "RANK='x', expected a number" in refused(capsys, arguments(work, out))


def test_sources_that_name_nothing(work, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").touch()
    for source, says in (
        (tmp_path / "empty", "names no picture"),
        (tmp_path / "empty.txt", "names no picture"),
        (tmp_path / "gone", "no such folder or file"),
        (listed(str(work / "pictures"))[0], "is no text"),
    ):
        command = arguments(work, tmp_path / "x.jsonl")
        command[1] = str(source)
        assert says in refused(capsys, command)
    assert not (tmp_path / "x.jsonl").exists()
    assert "give --out" in refused(capsys, ["classify", str(work / "pictures")])
    assert "which need --out" in refused(capsys, ["classify", "x.png", "--batch", "4"])
    assert "cannot be written" in refused(capsys, arguments(work, Path("/proc/x.jsonl")))


def test_probabilities_that_are_not_finite_are_an_error(work, tmp_path, capsys):
    state = torch.load(work / "w.pth", weights_only=True)
    state["fc.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    command = arguments(work, tmp_path / "x.jsonl")
    command[command.index("--weights") + 1] = str(tmp_path / "nan.pth")
    assert main(command) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 24 pictures classified, 24 could not be"
    assert "not finite" in (tmp_path / "x.jsonl").read_text()


def test_names_that_are_no_text_keep_their_bytes(work, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    name = os.fsencode(folder) + b"/\xff\n.png"
    Path(os.fsdecode(name)).write_bytes(Path(listed(str(work / "pictures"))[1]).read_bytes())
    command = arguments(work, tmp_path / "x.jsonl", "--workers", "0")
    command[1] = str(folder)
    assert main(command) == 0
    assert os.fsencode(json.loads((tmp_path / "x.jsonl").read_text().splitlines()[1])["path"]) == name


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def walk(folder, onerror, followlinks):
        onerror(PermissionError(13, "Permission denied", f"{folder}/secret"))

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(InputError, match="secret: permission denied"):
        listed(str(tmp_path))

"""Ctrl-C and SIGTERM in verify: what was checked is printed, what was not is named, and the exit code says which it was."""

import json
import signal
import subprocess
import sys

import pytest

from convatlas.ops import backends
from convatlas.verify import verify_all as whole

NETS = ["squeezenet1_1", "resnet18", "alexnet"]
FAST = ("--backend", "numpy", "--dtype", "float32", "--size", "32")


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(n): the nth op that runs (from 0) is interrupted, as by Ctrl-C."""

    original = backends.runner

    def at(nth: int) -> None:
        calls = []

        def runner(name):
            def run(call, tensors, out):
                calls.append(call)
                if len(calls) > nth:
                    raise KeyboardInterrupt
                return original(name)(call, tensors, out)

            return run

        monkeypatch.setattr(backends, "runner", runner)

    return at


def layers(out: str) -> list[str]:
    return [
        line
        for line in out.splitlines()
        if line.startswith(("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"))
    ]


@pytest.mark.parametrize(
    "after, rows, says",
    [
        (0, 0, "of 23 layers 0 checked alone and 0 in the network: all within the error bound, at most 0 of it"),
        (5, 5, "of 23 layers 7 checked alone and 0 in the network"),
        (18 + 4, 23, "of 23 layers 23 checked alone and 4 in the network"),
        (18 + 23, 23, "of 23 layers 23 checked alone and 23 in the network"),
    ],
)
def test_an_interrupted_verify_prints_what_is_done(ask, interrupt, after, rows, says):
    interrupt(after)
    code, out, err = ask("verify", "resnet18", *FAST)
    assert (code, err) == (130, "") and says in out and "NOT verified: the other layers, the logits" in out
    assert rows <= len(layers(out)) <= 23


def test_an_interrupted_verify_as_json(ask, interrupt):
    interrupt(5)
    code, out, _ = ask("verify", "resnet18", *FAST, "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["complete"], found["logits"]) == (130, False, False, None)
    assert (
        all(layer["alone"]["worst"] <= 1 and layer["in_network"] is None for layer in found["layers"])
        and found["layers"]
    )


@pytest.mark.parametrize("after, complete, rest", [(0, 0, NETS), (10, 0, NETS), (60, 1, NETS[1:])])
def test_an_interrupted_verify_all_prints_the_rows_that_are_there(ask, interrupt, monkeypatch, after, complete, rest):
    monkeypatch.setattr(whole, "names", lambda: NETS)
    interrupt(after)
    code, out, err = ask("verify", "all", *FAST)
    assert (code, err) == (130, "")
    assert [line.split()[0] for line in out.splitlines() if line.endswith("  ok")] == NETS[:complete]
    assert f"{complete} networks done, NOT verified: {', '.join(rest)}" in out
    interrupt(after)
    code, out, _ = ask("verify", "all", *FAST, "--json")
    found = json.loads(out)
    assert code == 130 and not found["complete"] and not found["ok"]
    assert sum(net["logits"] is not None for net in found["nets"]) == complete


def test_a_row_is_in_the_pipe_as_soon_as_its_network_ends(monkeypatch, capsys):
    from convatlas.cli import main

    monkeypatch.setattr(whole, "names", lambda: NETS[:2])
    seen = []
    original = whole.verify_net
    monkeypatch.setattr(whole, "verify_net", lambda *a: seen.append(capsys.readouterr().out) or original(*a))
    assert main(["verify", "all", *FAST]) == 0
    assert seen[0].endswith("s\n") and "all networks, float32" in seen[0] and "squeezenet1_1" not in seen[0]
    assert seen[1].startswith("squeezenet1_1") and seen[1].endswith("  ok\n")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number, code):
    # What a shell starts in the background ignores SIGINT, and so do its children unless they say otherwise.
    code_of_it = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from convatlas.cli import main; "
    )
    command = [sys.executable, "-c", code_of_it + "sys.exit(main(sys.argv[1:]))", "verify", "all", *FAST]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = process.stdout.readline()  # the heading: what follows takes minutes
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert first.startswith("all networks") and (process.returncode, err) == (code, "")
    assert "interrupted: 0 networks done" in out and "alexnet_2012" in out


def test_without_interrupts_sigterm_is_as_it_was(ask):
    before = signal.getsignal(signal.SIGTERM)
    ask("verify", "quux")
    assert signal.getsignal(signal.SIGTERM) is before

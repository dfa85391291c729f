"""convatlas verify conv, linear, ...: every op from the command line, right and wrong, and its help."""

import json
import re

import pytest
import torch

import convatlas
from convatlas.cli.verify_op import ALIASES, COMMANDS, called
from convatlas.ops import backends
from convatlas.ops.library import OPS
from convatlas.verify.verify_op import verify_op

FAST = ("--backend", "numpy", "--dtype", "float32")


def test_no_op_is_missing():
    without = {f"{op}_with_indices" for op in ("max_pool2d", "adaptive_max_pool2d")}
    without |= {"conv2d_input_grad", "conv2d_weight_grad", "conv2d_weight_grad_with_bias"}
    assert {row[0] for row in COMMANDS.values()} | without == {op.name for op in OPS}
    assert all(called(text) == name for text, name in ALIASES.items())
    assert called("Batch-Norm") == "batch_norm" and called("resnet18") is None


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_readable_and_its_example_runs(ask, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = ask("verify", name, "--help")
    assert (code, err) == (0, "") and f"Usage: convatlas verify {name} " in out and "--channels-last" in out
    example = re.search(rf"Example: convatlas verify {name} (.*?)\s*$", out, flags=re.MULTILINE)[1]
    code, out, err = ask("verify", name, *example.split(), *FAST)
    assert (code, err) == (0, "") and "error / bound  " in out and "worst at       [" in out
    assert re.search(r"verified: [\d,]+ elements, all within the error bound", out)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("conv --input 2x6x9x8 --weight 8x3x3x2 --stride 2x1 --padding 1,0,2,1 --dilation 1x2 --groups 2 --bias "
         "--activation relu6 --residual", "conv2d 2x6x9x8 -> 8x4x9, 3x2 stride2x1 dilation1x2 groups2; bias + residual + relu6"),
        ("conv2d --input 1x4x8x8 --weight 4x4x3x3 --padding same --contiguous", "-> 4x8x8, 3x3; float16, contiguous"),
        ("linear --input 5x16 --weight 7x16 --bias --activation relu", "linear 5x16 -> 5x7; bias + relu"),
        ("max-pool2d --input 1x4x9x9 --kernel-size 3 --stride 2 --padding 1 --ceil-mode", "max_pool2d 1x4x9x9 -> 4x5x5"),
        ("avg_pool2d --input 1x4x9x9 --kernel-size 3x2 --divisor-override 5 --no-count-include-pad", "avg_pool2d"),
        ("adaptive_avg_pool2d --input 1x4x9x7 --output-size 2x3", "-> 4x2x3"),
        ("adaptive_max_pool2d --input 1x4x9x7 --output-size 2x3", "-> 4x2x3, adaptive maximum"),
        ("channel_scale --input 2x4x9x7 --gate sigmoid --residual", "2x4x9x7 * sigmoid(2x4x1x1); residual"),
        ("batch_norm --input 2x4x3x3 --activation relu", "batch_norm 2x4x3x3; relu"),
        ("lrn --input 1x6x4x4 --size 3 --alpha 0.1 --beta 0.5 --k 2", "local_response_norm 1x6x4x4"),
        ("softmax --input 4x6 --dim 0", "softmax 4x6"),
        ("add --input 3x5 --activation relu", "residual_add 3x5; relu"),
        ("cat --input 1x4x3x3 --input 1x2x3x3", "concat 1x6x3x3"),
    ],
    ids=lambda text: text.split()[0],
)  # fmt: skip
def test_options_reach_the_op(ask, arguments, says):
    code, out, err = ask("verify", *arguments.split(), "--dtype", "float16", "--backend", "triton")
    assert (code, err) == (0, "") and says in out.splitlines()[0] and "verified" in out


@pytest.fixture
def wrong(monkeypatch):
    original = backends.runner

    def runner(name):
        def run(call, tensors, out):
            y = original(name)(call, tensors, out)
            y.view(-1)[-1] += 1
            return y

        return run

    monkeypatch.setattr(backends, "runner", runner)


def test_a_wrong_element_is_found_and_the_exit_code_says_so(ask, wrong):
    code, out, _ = ask("verify", "linear", "--input", "4x8", "--weight", "3x8", *FAST)
    assert code == 1 and "NOT verified: linear: y[3, 2] = " in out and "worst at       [3, 2]" in out
    code, out, _ = ask("verify", "linear", "--input", "4x8", "--weight", "3x8", *FAST, "--json")
    data = json.loads(out)
    assert code == 1 and data["ok"] is False and data["where"] == [3, 2] and data["worst"] > 1
    assert data["got"] - data["expected"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("channels_last", [True, False])
def test_layout_and_poison(monkeypatch, channels_last):
    """Operands and out lie as asked, and an out that nothing is written to stays NaN and is found."""
    seen = []

    def runner(name):
        def run(call, tensors, out):
            seen.extend([*tensors.values(), out])
            return out

        return run

    monkeypatch.setattr(backends, "runner", runner)
    check = verify_op(
        "conv2d", (2, 4, 6, 5), (8, 4, 3, 3), dtype="float32", backend="numpy", channels_last=channels_last
    )
    assert not check.report.ok and len(seen) == 6  # input, weight and out, on random numbers and on probes
    assert all(x.is_contiguous(memory_format=torch.channels_last) is channels_last for x in seen)


def test_seeds_and_errors_of_the_function():
    first, again, other = (verify_op("softmax", (4, 9), dtype="float32", backend="numpy", seed=s) for s in (0, 0, 1))
    assert first.report.got == again.report.got != other.report.got
    with pytest.raises(convatlas.ShapeError, match="groups"):
        verify_op("conv2d", (1, 4, 5, 5), (4, 4, 3, 3), groups=3, backend="numpy")


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("conv --input 1x4x8x8", "Missing option '--weight'"),
        ("conv --input 1x4x8 --weight 4x4x3x3x1", "weight of shape (4, 4, 3, 3, 1)"),
        ("conv --input 1x4x8x8 --weight 4x3x3x3", "C=4 channels"),
        ("conv --input 1x4x8x8 --weight 4x4x3x3 --padding 1,2,3", "'--padding'"),
        ("conv --input 1x4x8x8 --weight 4x4x3x3 --stride 0", "stride"),
        ("conv --input 1x4x8x8 --weight 4x4x3x3 --stride fast", "'--stride'"),
        ("conv --input 1x4xx8 --weight 4x4x3x3", "'--input'"),
        ("conv --input 1x4x8x8 --weight 4x4x3x3 --activation gelu", "relu, relu6"),
        ("conv --input 1x4x8x8 --weight 4x4x3x3 --backend rocm", "'--backend'"),
        ("relu --input 3x3 --dtype int8", "int8"),
        ("relu --input 3x3 --padding 1", "No such option"),
        ("softmax --input 3x3 --dim 5", "dim=5"),
        ("relu6", "Missing option '--input'"),
    ],
)
def test_what_goes_wrong_is_one_line(ask, arguments, says):
    code, out, err = ask("verify", *arguments.split())
    assert (code, out) == (2, "") and says in err
    assert err.startswith("convatlas: ") and err.count("\n") == 1 and "Traceback" not in err


def test_the_networks_help_names_the_ops(ask, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = ask("verify", "--help")[1]
    assert all(name in out for name in COMMANDS) and "verify conv --help" not in out.splitlines()[0]
    assert "verify conv" not in ask("--help")[1]

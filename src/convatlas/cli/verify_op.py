"""convatlas verify conv, linear, ...: one op on shapes from the command line. A command an op, each with its own options."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from convatlas.cli import output
from convatlas.cli.runtime import Backend, one_of, prepare, ran_on, shape_of, sizes
from convatlas.specs.activations import FLOPS, SLOPE, activation_of

if TYPE_CHECKING:
    from convatlas.verify.check import LayerCheck


def _shape(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else shape_of(text)


def _shapes(texts: list[str]) -> list[tuple[int, ...]]:
    return [shape_of(text) for text in texts]


def _pair(text: str | None) -> Any:
    """One number for both directions, or two numbers, one for each."""
    if text is None:
        return None
    found = sizes(text, "a number or two, such as 2 or 2x1")
    if len(found) > 2:
        raise typer.BadParameter(f"{text!r}, expected a number or two, such as 2 or 2x1")
    return found if len(found) == 2 else found[0]


def _padding(text: str) -> Any:
    if text in ("same", "valid"):
        return text
    expected = "a number, two (height x width), four (top, bottom, left, right), same or valid"
    found = sizes(text, expected)
    if len(found) == 4:
        return found[:2], found[2:]
    if len(found) > 2:
        raise typer.BadParameter(f"{text!r}, expected {expected}")
    return found if len(found) == 2 else found[0]


def _activation(text: str | None) -> str | None:
    """A name, or leaky_relu(SLOPE)."""
    if text is not None and not text.startswith("leaky_relu("):
        one_of(text, tuple(FLOPS))
    return activation_of(text)


def _given(kind: Any, help: str, default: Any = Parameter.empty, **more: Any) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(help=help, **more)], default


def _flag(name: str, help: str, default: bool = False) -> tuple[Any, Any]:
    return Annotated[bool, typer.Option(name, help=help)], default


INPUT = _given(str, "Shape of the input, N x C x H x W.", callback=_shape, metavar="1x64x56x56")
ANY_INPUT = _given(str, "Shape of the input.", callback=_shape, metavar="1x64x56x56")
ACTIVATION = _given(
    str | None,
    "relu, relu6, leaky_relu, leaky_relu(0.2), sigmoid, hardsigmoid, silu or hardswish, fused behind the op.",
    None,
    callback=_activation,
    metavar="NAME",
)
BIAS = _flag("--bias", "Add a bias.")
STRIDE = _given(str | None, "Default: the window's size.", None, callback=_pair, metavar="N or HxW")
KERNEL = _given(str, "The window's size.", callback=_pair, metavar="N or HxW")
PADDING = _given(str, "On each side.", "0", callback=_pair, metavar="N or HxW")
DILATION = _given(str, "Distance of the window's elements.", "1", callback=_pair, metavar="N or HxW")
CEIL = _flag("--ceil-mode", "Round the output's size up.")

# An op's command: what is called, what it computes, an example, and its options by the names that torch has for them.
COMMANDS: dict[str, tuple[str, str, str, dict[str, tuple[Any, Any]]]] = {
    "conv": (
        "conv2d",
        "activation(conv2d(input, weight) + bias + residual)",
        "--input 1x64x56x56 --weight 64x64x3x3 --padding 1 --bias --activation relu",
        {
            "input": INPUT,
            "weight": _given(str, "Shape of the weight, K x C/groups x R x S.", callback=_shape, metavar="64x64x3x3"),
            "stride": _given(str, "Of the window.", "1", callback=_pair, metavar="N or HxW"),
            "padding": _given(
                str,
                "On each side, or four: top, bottom, left, right.",
                "0",
                callback=_padding,
                metavar="N, HxW, T,B,L,R, same or valid",
            ),
            "dilation": DILATION,
            "groups": _given(int, "Groups of channels; as many as channels: depthwise.", 1, min=1),
            "bias": BIAS,
            "activation": ACTIVATION,
            "residual": _flag("--residual", "Add a tensor of the output's shape, before the activation."),
        },
    ),
    "conv_transpose2d": (
        "conv_transpose2d",
        "activation(conv_transpose2d(input, weight) + bias)",
        "--input 1x64x14x14 --weight 64x32x4x4 --stride 2 --padding 1 --bias",
        {
            "input": INPUT,
            "weight": _given(str, "Shape of the weight, C x K/groups x R x S.", callback=_shape, metavar="64x32x4x4"),
            "stride": _given(str, "Of the output.", "1", callback=_pair, metavar="N or HxW"),
            "padding": _given(str, "Cut from each side of the output.", "0", callback=_pair, metavar="N or HxW"),
            "output_padding": _given(str, "Added at the bottom and right.", "0", callback=_pair, metavar="N or HxW"),
            "dilation": DILATION,
            "groups": _given(int, "Groups of channels.", 1, min=1),
            "bias": BIAS,
            "activation": ACTIVATION,
        },
    ),
    "linear": (
        "linear",
        "activation(input @ weight.T + bias)",
        "--input 32x2048 --weight 1000x2048 --bias",
        {
            "input": _given(str, "Shape of the input, its last size C.", callback=_shape, metavar="32x2048"),
            "weight": _given(str, "Shape of the weight, K x C.", callback=_shape, metavar="1000x2048"),
            "bias": BIAS,
            "activation": ACTIVATION,
        },
    ),
    "max_pool2d": (
        "max_pool2d",
        "the largest element of every window",
        "--input 1x64x112x112 --kernel-size 3 --stride 2 --padding 1",
        {
            "input": INPUT,
            "kernel_size": KERNEL,
            "stride": STRIDE,
            "padding": PADDING,
            "dilation": DILATION,
            "ceil_mode": CEIL,
        },
    ),
    "avg_pool2d": (
        "avg_pool2d",
        "the mean of every window",
        "--input 1x64x28x28 --kernel-size 2",
        {
            "input": INPUT,
            "kernel_size": KERNEL,
            "stride": STRIDE,
            "padding": PADDING,
            "ceil_mode": CEIL,
            "count_include_pad": _flag(
                "--count-include-pad/--no-count-include-pad", "Divide by the window's size at the border, too.", True
            ),
            "divisor_override": _given(int | None, "Divide by this.", None),
        },
    ),
    "adaptive_avg_pool2d": (
        "adaptive_avg_pool2d",
        "means over windows that divide the input",
        "--input 1x512x7x7 --output-size 1",
        {"input": INPUT, "output_size": _given(str, "Of the output.", callback=_pair, metavar="N or HxW")},
    ),
    "adaptive_max_pool2d": (
        "adaptive_max_pool2d",
        "maxima over windows that divide the input",
        "--input 1x512x7x7 --output-size 1",
        {"input": INPUT, "output_size": _given(str, "Of the output.", callback=_pair, metavar="N or HxW")},
    ),
    "channel_scale": (
        "channel_scale",
        "activation(x * gate(scale) + residual), a scale a channel of each image",
        "--input 1x96x28x28 --gate sigmoid",
        {
            "input": INPUT,
            "gate": _given(str | None, "Of the scales; as an activation.", None, callback=_activation, metavar="NAME"),
            "activation": ACTIVATION,
            "residual": _flag("--residual", "Add a tensor of the input's shape, before the activation."),
        },
    ),
    "residual_add": (
        "residual_add",
        "activation(x + shortcut)",
        "--input 1x64x56x56 --activation relu",
        {"input": ANY_INPUT, "activation": ACTIVATION},
    ),
    "batch_norm": (
        "batch_norm",
        "activation of the batch norm at inference",
        "--input 1x64x28x28",
        {"input": ANY_INPUT, "eps": _given(float, "Added to the variance.", 1e-5), "activation": ACTIVATION},
    ),
    "local_response_norm": (
        "local_response_norm",
        "input / (k + alpha/size * sum of squares over neighbouring channels)^beta",
        "--input 1x96x27x27 --size 5 --k 2",
        {
            "input": ANY_INPUT,
            "size": _given(int, "Channels summed.", 5),
            "alpha": _given(float, "Of the formula.", 1e-4),
            "beta": _given(float, "Of the formula.", 0.75),
            "k": _given(float, "Of the formula.", 1.0),
        },
    ),
    "softmax": (
        "softmax",
        "softmax",
        "--input 32x1000",
        {"input": ANY_INPUT, "dim": _given(int, "Along which it sums to 1.", -1)},
    ),
    "relu": ("relu", "max(input, 0)", "--input 1x64x56x56", {"input": ANY_INPUT}),
    "relu6": ("relu6", "min(max(input, 0), 6)", "--input 1x64x56x56", {"input": ANY_INPUT}),
    "leaky_relu": (
        "leaky_relu",
        "input above 0, negative-slope * input below",
        "--input 1x64x56x56 --negative-slope 0.1",
        {"input": ANY_INPUT, "negative_slope": _given(float, "Below 0.", SLOPE)},
    ),
    "sigmoid": ("sigmoid", "1 / (1 + e^-input)", "--input 1x64x1x1", {"input": ANY_INPUT}),
    "hardsigmoid": ("hardsigmoid", "min(max(input + 3, 0), 6) / 6", "--input 1x64x1x1", {"input": ANY_INPUT}),
    "silu": ("silu", "input / (1 + e^-input)", "--input 1x64x56x56", {"input": ANY_INPUT}),
    "hardswish": ("hardswish", "input * min(max(input + 3, 0), 6) / 6", "--input 1x64x56x56", {"input": ANY_INPUT}),
    "concat": (
        "concat",
        "the tensors one after another",
        "--input 1x64x28x28 --input 1x32x28x28",
        {
            "input": _given(list[str], "Shape of a tensor; once a tensor.", callback=_shapes, metavar="1x64x56x56"),
            "dim": _given(int, "Along which they are joined.", 1),
        },
    ),
}
ALIASES = {"conv2d": "conv", "cat": "concat", "lrn": "local_response_norm", "add": "residual_add"}
COMMON = {
    "dtype": _given(str, "float16, bfloat16, float32 or float64.", "float16"),
    "backend": (Backend, "triton"),
    "channels_last": _flag("--channels-last/--contiguous", "How four-dimensional tensors lie in memory.", True),
    "seed": _given(int, "Of the random numbers.", 0),
    "json": _flag("--json", "Print JSON."),
}


def called(text: str) -> str | None:
    """The name of the op's command that `text` means ("conv" for "conv2d", "batch_norm" for "batch-norm"), or None."""
    name = text.casefold().replace("-", "_")
    name = ALIASES.get(name, name)
    return name if name in COMMANDS else None


class Root(TyperGroup):
    """All commands; `verify OP ...` is one of its own, with the op's options."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple:
        """As the base class, with "verify conv" taken for one name."""
        if args[:1] == ["verify"] and len(args) > 1 and (op := called(args[1])):
            args = [f"verify {op}", *args[2:]]
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    """Adds the ops' commands, which the list of commands does not show: `convatlas verify --help` names them."""
    for name in COMMANDS:
        app.command(f"verify {name}", hidden=True)(_command(name))


def _command(name: str) -> Callable[..., None]:
    op, formula, example, own = COMMANDS[name]
    options = {**own, **COMMON}

    def command(**values: Any) -> None:
        common = {key: values.pop(key) for key in COMMON}
        run(name, op, common.pop("json"), {**values, **common})

    command.__doc__ = (
        f"Run {op} on random numbers and hold its output to the NumPy reference's error bound: {formula}.\n\n"
        f"Example: convatlas verify {name} {example}"
    )
    command.__annotations__ = {key: kind for key, (kind, _) in options.items()}
    command.__signature__ = Signature(
        Parameter(key, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for key, (kind, default) in options.items()
    )
    return command


def run(name: str, op: str, json: bool, values: dict[str, Any]) -> None:
    """Verifies the op and prints what was found; exits with 1 where the output is outside its bound."""
    prepare(values["backend"])
    from convatlas.verify.device import device_for, interpreted
    from convatlas.verify.verify_op import verify_op

    device = device_for(values["backend"], values["dtype"])
    with output.progress(f"verifying {name}"):
        check = verify_op(op, **values)
    where = {"backend": values["backend"], "device": device.type, "interpreted": interpreted(values["backend"], device)}
    if json:
        output.print_json(as_dict(check, where, values["channels_last"]))
    else:
        show_text(check, ran_on(*where.values()), values["channels_last"])
    if not check.report.ok:
        raise typer.Exit(1)


def as_dict(check: LayerCheck, where: dict[str, Any], channels_last: bool) -> dict[str, Any]:
    """The JSON document."""
    call, report = check.call, check.report
    return {
        "op": call.op,
        "shape": str(call.spec),
        "epilogue": str(call.epilogue or "none"),
        "parameters": call.params,
        "dtype": call.dtype,
        "channels_last": channels_last,
        **where,
        "ok": report.ok,
        "worst": report.worst,
        "rms": report.rms,
        "where": report.where,
        "got": report.got,
        "expected": report.expected,
        "elements": report.count,
        "detail": report.detail,
    }


def show_text(check: LayerCheck, where: str, channels_last: bool) -> None:
    """What ran, error against bound, where it is worst, the verdict."""
    console = output.console()
    call, report = check.call, check.report
    fused = "" if not call.epilogue or str(call.epilogue) == "none" else f"; {call.epilogue}"
    layout = "channels_last" if channels_last else "contiguous"
    console.print(output.plain(f"{call.op} {call.spec}{fused}; {call.dtype}, {layout}: {where}\n"))
    lines = [f"error / bound  {output.number(report.worst)}", f"rms / bound    {output.number(report.rms)}"]
    if report.where is not None:
        at = ", ".join(map(str, report.where))
        lines.append(f"worst at       [{at}]: {report.got:.9g}, the reference has {report.expected:.9g}")
    console.print(output.plain("\n".join(lines)))
    if report.ok:
        console.print(output.plain(f"\nverified: {report.count:,} elements, all within the error bound", "green"))
    else:
        console.print(output.plain(f"\nNOT verified: {report.detail}", "bold red"))

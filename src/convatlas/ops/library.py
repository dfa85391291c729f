"""Every op's registration with torch.library, from one table: schema, implementation, fake, autograd.

Each op is `torch.ops.convatlas.<name>(...) -> Tensor` and, for `out=`, `torch.ops.convatlas.<name>_out(..., *, Tensor(a!) into)`.
The implementation builds the op's Call (which validates), picks the backend and runs it; the fake builds the same Call and only
allocates, so torch.compile, torch.export and the meta device see the same shapes, strides and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.errors import DtypeError, ShapeError
from convatlas.layout import address, allocate_extra, allocate_result, is_static, overlap, overlaps_itself
from convatlas.ops import backends, flop_counter, hot
from convatlas.ops.observe import notify, observed
from convatlas.ops.transforms import derivative_rule, vmap_rule
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    ConcatSpec,
    Conv2dInputGradSpec,
    Conv2dSpec,
    Conv2dWeightGradSpec,
    ConvTranspose2dSpec,
    ElementwiseSpec,
    Epilogue,
    LinearSpec,
    LocalResponseNormSpec,
    NormSpec,
    Pool2dSpec,
    ResidualAddSpec,
    Spec,
)
from convatlas.specs.activations import FLOPS
from convatlas.specs.arguments import INT64
from convatlas.specs.common import dtype_name

Args = dict[str, Any]


@dataclass(frozen=True)
class Op:
    """One row of the table.

    Attributes:
        name: the public name.
        schema: the arguments, as torch.library writes them (without backend and out).
        describe: from the arguments by name to the Call; raises ShapeError.
        returns: the schema's return type.
        overwritten: operands that `out` may be, element for element: the op reads each before it writes that place.
    """

    name: str
    schema: str
    describe: Callable[[Args], Call]
    returns: str = "Tensor"
    overwritten: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        return [part.split()[-1].split("=")[0] for part in self.schema.split(", ")]

    def tensors(self, args: Args) -> dict[str, Tensor]:
        """The tensor arguments that were given, by name, a tensor list's under "0", "1", ..."""
        found = {name: value for name, value in args.items() if isinstance(value, Tensor)}
        if "tensors" in args:
            found.update((str(i), x) for i, x in enumerate(args["tensors"]))
        return found


def _shape(x: Tensor | None) -> tuple | None:
    return None if x is None else tuple(x.shape)


# What the operands that an epilogue adds are to an op, for messages.
ADDED = {"bias": "one number per output channel", "residual": "the output's"}


def _fused(op: str, spec: Spec, a: Args) -> Call:
    """The Call with the epilogue that the arguments ask for. Raises ShapeError for a bias or a residual of another shape."""
    given = {name: _shape(a.get(name)) for name in ADDED}
    epilogue = Epilogue(given["bias"] is not None, a["activation"], given["residual"] is not None)
    expected = spec.operands(epilogue)
    for name, shape in given.items():
        if shape is not None and shape != expected[name]:
            raise ShapeError(f"{op}: {name} of shape {shape}, expected {expected[name]}, {ADDED[name]}")
    return Call(op, spec, epilogue)


def _conv2d(a: Args) -> Call:
    return _fused("conv2d", Conv2dSpec.of(_shape(a["input"]), _shape(a["weight"]), *_geometry(a)), a)


def _geometry(a: Args) -> tuple:
    """A convolution's stride, padding, dilation and groups."""
    top, bottom, left, right = a["padding"]
    return tuple(a["stride"]), ((top, bottom), (left, right)), tuple(a["dilation"]), a["groups"]


def _conv2d_input_grad(a: Args) -> Call:
    spec = Conv2dInputGradSpec.of(_shape(a["grad_output"]), _shape(a["weight"]), tuple(a["input_size"]), *_geometry(a))
    return Call("conv2d_input_grad", spec)


def _conv2d_weight_grad(a: Args) -> Call:
    shapes = _shape(a["grad_output"]), _shape(a["input"]), tuple(a["weight_size"])
    return Call("conv2d_weight_grad", Conv2dWeightGradSpec.of(*shapes, *_geometry(a)))


def _conv2d_weight_grad_with_bias(a: Args) -> Call:
    return replace(_conv2d_weight_grad(a), params={"bias_grad": True})


def _conv_transpose2d(a: Args) -> Call:
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    geometry = (tuple(a[name]) if name != "groups" else a[name] for name in names)
    return _fused("conv_transpose2d", ConvTranspose2dSpec.of(_shape(a["input"]), _shape(a["weight"]), *geometry), a)


def _max_pool2d(a: Args) -> Call:
    window = a["kernel_size"], a["stride"], a["padding"], a["dilation"]
    return Call("max_pool2d", Pool2dSpec.of("max", _shape(a["input"]), *map(tuple, window), a["ceil_mode"]))


def max_pool2d_with_winners(a: Args) -> Call:
    """Beside the maxima what a backward pass keeps: of each the number of its tap, a byte."""
    return replace(_max_pool2d(a), params={"return_winners": True})


def _adaptive_pool2d(kind: str, a: Args) -> Call:
    spec = AdaptivePool2dSpec.of(_shape(a["input"]), tuple(a["output_size"]), kind)
    return Call(f"adaptive_{kind}_pool2d", spec)


def _with_indices(describe: Callable[[Args], Call]) -> Callable[[Args], Call]:
    return lambda a: replace(describe(a), params={"return_indices": True})


def _avg_pool2d(a: Args) -> Call:
    window = map(tuple, (a["kernel_size"], a["stride"], a["padding"]))
    rest = a["ceil_mode"], a["count_include_pad"], a["divisor_override"]
    return Call("avg_pool2d", Pool2dSpec.of("avg", _shape(a["input"]), *window, 1, *rest))


def _batch_norm(a: Args) -> Call:
    names = ("running_mean", "running_var", "weight", "bias")
    spec = NormSpec.of(_shape(a["input"]), a["eps"], **{name: _shape(a[name]) for name in names})
    residual = _shape(a.get("residual"))
    if residual not in (None, spec.shape):
        raise ShapeError(f"batch_norm: residual of shape {residual}, expected {spec.shape}, {ADDED['residual']}")
    epilogue = Epilogue(activation=a["activation"], residual=residual is not None)
    return Call("batch_norm", spec, epilogue, {"eps": a["eps"]})


def _local_response_norm(a: Args) -> Call:
    spec = LocalResponseNormSpec.of(_shape(a["input"]), a["size"])
    return Call("local_response_norm", spec, None, {name: a[name] for name in ("alpha", "beta", "k")})


def _softmax(a: Args) -> Call:
    shape, dim = _shape(a["input"]), a["dim"]
    rank = max(len(shape), 1)  # PyTorch takes a scalar for a row of one
    if not -rank <= dim < rank:
        raise ShapeError(f"softmax: dim={dim} for an input of shape {shape}, expected {-rank} to {rank - 1}")
    dim %= rank
    return Call("softmax", ElementwiseSpec("softmax", shape, shape[dim] if shape else 1), None, {"dim": dim})


def _activation(name: str, a: Args) -> Call:
    params = {"negative_slope": a["negative_slope"]} if name == "leaky_relu" else {}
    return Call(name, ElementwiseSpec(name, _shape(a["input"])), None, params)


GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups"
WEIGHT_GRAD = f"Tensor grad_output, Tensor input, SymInt[] weight_size, {GEOMETRY}"
POOL = "Tensor input, int[] kernel_size, int[] stride, int[] padding"
MAX_POOL = f"{POOL}, int[] dilation, bool ceil_mode"
ADAPTIVE_POOL = "Tensor input, SymInt[] output_size"
OPS = (
    Op(
        "conv2d",
        f"Tensor input, Tensor weight, Tensor? bias, {GEOMETRY}, str? activation, Tensor? residual",
        _conv2d,
        overwritten=("residual",),
    ),
    Op(
        "conv2d_input_grad",
        f"Tensor grad_output, Tensor weight, SymInt[] input_size, {GEOMETRY}",
        _conv2d_input_grad,
    ),
    Op("conv2d_weight_grad", WEIGHT_GRAD, _conv2d_weight_grad),
    Op("conv2d_weight_grad_with_bias", WEIGHT_GRAD, _conv2d_weight_grad_with_bias, "(Tensor, Tensor)"),
    Op(
        "conv_transpose2d",
        "Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] output_padding, int groups, "
        "int[] dilation, str? activation",
        _conv_transpose2d,
    ),
    Op(
        "linear",
        "Tensor input, Tensor weight, Tensor? bias, str? activation",
        lambda a: _fused("linear", LinearSpec.of(_shape(a["input"]), _shape(a["weight"])), a),
    ),
    Op("max_pool2d", MAX_POOL, _max_pool2d),
    Op("max_pool2d_with_indices", MAX_POOL, _with_indices(_max_pool2d), "(Tensor, Tensor)"),
    Op("avg_pool2d", f"{POOL}, bool ceil_mode, bool count_include_pad, int? divisor_override", _avg_pool2d),
    Op("adaptive_avg_pool2d", ADAPTIVE_POOL, partial(_adaptive_pool2d, "avg")),
    Op("adaptive_max_pool2d", ADAPTIVE_POOL, partial(_adaptive_pool2d, "max")),
    Op(
        "adaptive_max_pool2d_with_indices",
        ADAPTIVE_POOL,
        _with_indices(partial(_adaptive_pool2d, "max")),
        "(Tensor, Tensor)",
    ),
    Op(
        "channel_scale",
        "Tensor x, Tensor scale, str? gate, str? activation, Tensor? residual",
        lambda a: _fused("channel_scale", ChannelScaleSpec.of(_shape(a["x"]), _shape(a["scale"]), a["gate"]), a),
        overwritten=("x", "residual"),
    ),
    Op(
        "residual_add",
        "Tensor x, Tensor shortcut, str? activation",
        lambda a: Call(
            "residual_add",
            ResidualAddSpec.of(_shape(a["x"]), _shape(a["shortcut"])),
            Epilogue(activation=a["activation"]),
        ),
        overwritten=("x", "shortcut"),
    ),
    Op(
        "batch_norm",
        "Tensor input, Tensor running_mean, Tensor running_var, Tensor? weight, Tensor? bias, float eps, str? activation, "
        "Tensor? residual",
        _batch_norm,
        overwritten=("input", "residual"),
    ),
    Op("local_response_norm", "Tensor input, int size, float alpha, float beta, float k", _local_response_norm),
    Op("softmax", "Tensor input, int dim", _softmax),
    *(
        Op(name, "Tensor input", partial(_activation, name), overwritten=("input",))
        for name in FLOPS
        if name != "leaky_relu"
    ),
    Op("leaky_relu", "Tensor input, float negative_slope", partial(_activation, "leaky_relu"), overwritten=("input",)),
    Op(
        "concat",
        "Tensor[] tensors, int dim",
        lambda a: Call("concat", ConcatSpec.of([tuple(x.shape) for x in a["tensors"]], a["dim"])),
    ),
)
BY_NAME = {op.name: op for op in OPS}


def checked(call: Call, tensors: dict[str, Tensor], out: Tensor | None) -> Call:
    """One dtype, one device, an `out` that fits; returns the Call with its dtype. Raises DtypeError or ShapeError."""
    first_name, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        if x.dtype != first.dtype and not _may_differ(call.spec, name, x.dtype):
            raise DtypeError(f"{call.op}: {first_name} is {first.dtype} and {name} is {x.dtype}, expected one dtype")
        if x.device != first.device:
            raise ShapeError(
                f"{call.op}: {first_name} is on {first.device} and {name} on {x.device}, expected one device"
            )
    try:
        call = replace(call, dtype=dtype_name(first.dtype))
    except DtypeError as error:
        raise DtypeError(f"{call.op}: {error}") from None
    count = prod(call.spec.output_shape) * first.element_size()
    if type(count) is int and count > INT64:
        raise ShapeError(f"{call.op}: an output of {call.spec.output_shape}, expected at most 2**63 - 1 bytes")
    if out is not None:
        require_fit(call.op, out, call.spec.output_shape, first)
    return call


def _may_differ(spec: Spec, name: str, dtype: torch.dtype) -> bool:
    """Whether an operand may have this dtype beside another one of the rest."""
    if name in spec.places:
        return not (dtype.is_floating_point or dtype.is_complex)
    return name in spec.wide and dtype == torch.float32


def require_fit(op: str, out: Tensor, shape: tuple, like: Tensor) -> None:
    """Raises ShapeError unless `out` has this shape, and the dtype and device of `like`."""
    given, expected = (tuple(out.shape), out.dtype, out.device), (tuple(shape), like.dtype, like.device)
    if given != expected:
        raise ShapeError(f"{op}: out is {_describe(*given)}, expected {_describe(*expected)}")


def _describe(shape: tuple, dtype: torch.dtype, device: torch.device) -> str:
    return f"{tuple(shape)} {str(dtype).removeprefix('torch.')} on {device}"


def _check_overlap(op: Op, tensors: dict[str, Tensor], out: Tensor) -> None:
    """No element of `out` may be written twice; `out` may be an operand that the op's row allows, element for element; any other
    shared memory would be read half-written.
    """
    if overlaps_itself(out):
        raise ShapeError(
            f"{op.name}: out of shape {tuple(out.shape)} and strides {out.stride()} has several elements in one place of memory, "
            "expected one element a place, as out.clone() has"
        )
    for name, x in tensors.items():
        if overlap(x, out) and not (name in op.overwritten and _same_elements(x, out)):
            raise ShapeError(f"{op.name}: out shares memory with {name}, expected memory of its own")


def _same_elements(a: Tensor, b: Tensor) -> bool:
    steps = ([s for n, s in zip(x.shape, x.stride()) if n > 1] for x in (a, b))
    return a.shape == b.shape and address(a) == address(b) and next(steps) == next(steps)


def _run(op: Op, args: Args, out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    tensors = op.tensors(args)
    call = checked(op.describe(args), tensors, out)
    first = next(iter(tensors.values()))
    backend = backends.resolve(args["backend"], first, call)
    backends.check_dtype(backend, call)
    if out is not None:
        _check_overlap(op, tensors, out)
    call = replace(call, backend=backend)
    seen = tensors
    if out is not None and observed():  # an input that `out` overwrites is kept for the observers
        seen = {name: x.clone() if overlap(x, out) else x for name, x in tensors.items()}
    result = backends.runner(backend)(call, tensors, out)
    if out is not None:  # a graph that has saved `out` must learn that it was overwritten
        torch.autograd.graph.increment_version(out)
    notify(call, seen, result[0] if isinstance(result, tuple) else result)
    return result


def _fake(op: Op, args: Args, out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    tensors = op.tensors(args)
    call = checked(op.describe(args), tensors, out)
    first = next(iter(tensors.values()))
    if out is not None and all(map(is_static, (out, *tensors.values()))):
        _check_overlap(op, tensors, out)
    result = allocate_result(call.spec, first) if out is None else out
    notify(call, tensors, result)
    extra = allocate_extra(call, first)
    return (result, *extra.values()) if extra else result


_library = torch.library.Library("convatlas", "DEF")


def register(op: Op) -> None:
    """Makes a row torch.ops.convatlas.<name>, and <name>_out where it returns one tensor."""
    names = [*op.arguments, "backend"]

    def bind(values: tuple, keywords: dict) -> Args:
        # The dispatcher leaves out trailing arguments that equal their default, on its way through autograd at least.
        return {"backend": None, **dict(zip(names, values)), **keywords}

    def computed(*values: Any, out: Tensor | None = None, **keywords: Any) -> Any:
        return _run(op, bind(values, keywords), out)

    def implementation(*values: Any, **keywords: Any) -> Any:
        return hot.call(op.name, values, keywords, computed, inside=True)

    def fake(*values: Any, **keywords: Any) -> Any:
        return _fake(op, bind(values, keywords), None)

    def call_of(values: tuple, keywords: dict) -> Call:
        keywords.pop("into", None)
        return op.describe(bind(values, keywords))

    _library.define(f"{op.name}({op.schema}, str? backend=None) -> {op.returns}")
    for device in ("CPU", "CUDA"):
        _library.impl(op.name, implementation, device)
    torch.library.register_fake(f"convatlas::{op.name}", fake, lib=_library)
    _library.impl(op.name, derivative_rule(op.name, names), "Autograd", with_keyset=True)
    torch.library.register_vmap(f"convatlas::{op.name}", vmap_rule(op.name), lib=_library)
    flop_counter.register(op.name, call_of)
    if op.returns != "Tensor":
        return

    # Named "into": torch.compile takes any keyword "out" for torch's own and refuses a channel slice there.
    def implementation_out(*values: Any, into: Tensor, **keywords: Any) -> None:
        hot.call(op.name, values, {**keywords, "out": into}, computed, inside=True)

    def fake_out(*values: Any, into: Tensor, **keywords: Any) -> None:
        _fake(op, bind(values, keywords), into)

    _library.define(f"{op.name}_out({op.schema}, str? backend=None, *, Tensor(a!) into) -> ()")
    for device in ("CPU", "CUDA"):
        _library.impl(f"{op.name}_out", implementation_out, device)
    flop_counter.register(f"{op.name}_out", call_of)
    _library.impl(f"{op.name}_out", derivative_rule(f"{op.name}_out", names), "Autograd", with_keyset=True)
    torch.library.register_fake(f"convatlas::{op.name}_out", fake_out, lib=_library)


def register_composite(schema: str, compute: Callable[..., Any]) -> None:
    """Makes a function of several ops one, so that its gradient is computed of the whole; it chooses no backend itself."""
    name, arguments = schema.split("(", 1)
    names = [part.split()[-1].split("=")[0] for part in arguments.split(")", 1)[0].split(", ")]
    _library.define(schema)
    for device in ("CPU", "CUDA"):
        _library.impl(name, compute, device)
    torch.library.register_fake(f"convatlas::{name}", compute, lib=_library)
    _library.impl(name, derivative_rule(name, names), "Autograd", with_keyset=True)
    torch.library.register_vmap(f"convatlas::{name}", vmap_rule(name), lib=_library)


for _op in OPS:
    register(_op)

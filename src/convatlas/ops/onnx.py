"""ONNX export keeps our ops as nodes of the domain "convatlas", named and with the arguments of torch.ops.convatlas.

    from convatlas.ops.onnx import translation_table
    torch.onnx.export(net, (x,), dynamo=True, custom_translation_table=translation_table())

Tensors are the node's inputs, an absent one an empty input; everything else is an attribute, and one that is None is left out. The
choice of a backend is no part of the graph. No runtime knows these nodes: whoever runs the file maps them to kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from convatlas.errors import InputError
from convatlas.ops.library import OPS

DOMAIN, VERSION = "convatlas", 1


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The function that writes each op's node, for torch.onnx.export. Raises InputError where onnxscript is not installed."""
    try:
        import onnxscript
    except ImportError:
        raise InputError("ONNX export needs the packages onnx and onnxscript: pip install onnx onnxscript") from None
    opset = onnxscript.values.Opset(DOMAIN, VERSION)
    overloads = [getattr(torch.ops.convatlas, op.name).default for op in OPS]
    return {overload: _translation(onnxscript, opset, overload) for overload in overloads}


def _translation(onnxscript: Any, opset: Any, overload: Any) -> Callable[..., Any]:
    arguments = [a for a in overload._schema.arguments if a.name != "backend"]
    is_input = ["Tensor" in str(a.type) for a in arguments]
    node = onnxscript.values.Op(opset, overload._schema.name.split("::")[1], _schema(overload, arguments, is_input))

    def translate(*values: Any, **keywords: Any) -> Any:
        given = {**dict(zip((a.name for a in arguments), values)), **keywords}
        inputs: list[Any] = []
        for argument, tensor in zip(arguments, is_input):
            if tensor:
                value = given.pop(argument.name, None)
                inputs += value if isinstance(value, (list, tuple)) else [value]
        given.pop("backend", None)
        return node(*inputs, **{name: value for name, value in given.items() if value is not None})

    return translate


def _schema(overload: Any, arguments: list[Any], is_input: list[bool]) -> Any:
    """The ONNX schema that corresponds to torch's schema of the op."""
    from onnx.defs import OpSchema

    kinds = {"int": "INT", "bool": "INT", "SymInt": "INT", "float": "FLOAT", "str": "STRING"}
    types = ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"], "any float")
    option = OpSchema.FormalParameterOption
    inputs, attributes = [], []
    for argument, tensor in zip(arguments, is_input):
        text = str(argument.type)
        if tensor:
            many = option.Variadic if "List" in text else option.Optional if "Optional" in text else option.Single
            inputs.append(OpSchema.FormalParameter(argument.name, "T", param_option=many))
        else:
            kind = next(onnx for name, onnx in kinds.items() if name in text) + "S" * ("List" in text)
            attributes.append(OpSchema.Attribute(argument.name, getattr(OpSchema.AttrType, kind), required=False))
    outputs = [
        OpSchema.FormalParameter(f"y{i}", "T" if i == 0 else "tensor(int64)")
        for i, _ in enumerate(overload._schema.returns)
    ]
    name = overload._schema.name.split("::")[1]
    return OpSchema(
        name, DOMAIN, VERSION, inputs=inputs, outputs=outputs, type_constraints=[types], attributes=attributes
    )

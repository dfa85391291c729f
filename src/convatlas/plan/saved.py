"""Plans as files: one safetensors file, whose metadata is the plan as JSON. Nothing in it is code, and nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from functools import partial
from hashlib import sha256
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten, treespec_dumps, treespec_loads

from convatlas import __version__, specs
from convatlas.call import Call
from convatlas.errors import InputError
from convatlas.files import check_writable, readable, shown, whole
from convatlas.nets.checkpoint import digest
from convatlas.plan.carried import Carried, compiled, made_by
from convatlas.plan.places import Place
from convatlas.plan.program import Program, arch_of
from convatlas.plan.steps import Graph, Ref, Step, Value, Weight

FORMAT = 1  # raised when a file of today could no longer be read
KEY = "convatlas_plan"
CODE = "kernel."  # the name of a cubin's bytes among the tensors, before its SHA-256
HASH = re.compile(rb'"sha256":"([0-9a-f]{64})"')
NONE = b"0" * 64
# Of PyTorch's values those that arguments of ops have, by how they are written.
KINDS = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}


def architecture(device: torch.device) -> str:
    """What a plan is made for: "sm_90" or "cpu"."""
    return f"sm_{arch_of(device)}" if device.type == "cuda" else device.type


class _Writer:
    """Turns programs into JSON and collects their tensors; equal tensors of several programs are stored once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.known: dict[str, str] = {}

    def program(self, key: tuple, program: Program) -> dict[str, Any]:
        graph = program.graph

        def leaf(x: Any) -> Any:
            return self.value(x, program)

        return {
            "shapes": [list(shape) for shape in key[0]],
            "cast": None if key[1] is None else _name(key[1]),
            "inputs": graph.inputs,
            "outputs": leaf(graph.outputs),
            "values": [[v.name, list(v.shape), _name(v.dtype)] for v in graph.values.values()],
            "strides": {name: list(strides) for name, strides in graph.strides.items()},
            "tree": treespec_dumps(graph.rebuild.keywords["treespec"]),
            "torch": [graph.torch_peak, graph.torch_layers],
            "places": {name: [p.buffer, p.start, list(p.strides)] for name, p in program.places.items()},
            "steps": [self.step(ready.step, leaf) for ready in program.steps],
        }

    def step(self, step: Step, leaf: Any) -> dict[str, Any]:
        call = step.call
        return {
            "path": step.path,
            "outputs": list(step.outputs),
            "call": None
            if call is None
            else {
                "op": call.op,
                "spec": [type(call.spec).__name__, leaf(_fields(call.spec))],
                "epilogue": None if call.epilogue is None else _fields(call.epilogue),
                "params": leaf(call.params),
                "dtype": call.dtype,
                "backend": call.backend,
            },
            "operands": leaf(step.operands),
            "target": None if step.target is None else str(step.target),
            "args": leaf(step.args),
            "keywords": leaf(step.keywords),
            "kind": step.kind,
            "index": step.index,
            "merged": list(step.merged),
        }

    def value(self, x: Any, program: Program) -> Any:
        """JSON of a value in nested tuples, lists and dicts. What JSON lacks is a list that begins with its kind."""
        if x is None or isinstance(x, (bool, int, str)):
            return x
        if isinstance(x, float):
            return x if math.isfinite(x) else ["float", str(x)]
        if isinstance(x, Ref):
            return ["ref", x.name]
        if isinstance(x, Weight):
            return ["weight", x.name, self.tensor(program.weights(x))]
        if isinstance(x, (tuple, list)):
            return ["tuple" if isinstance(x, tuple) else "list", *(self.value(part, program) for part in x)]
        if isinstance(x, dict):
            return {name: self.value(part, program) for name, part in x.items()}
        for kind, of in KINDS.items():
            if isinstance(x, of):
                return [kind, _name(x)]
        if isinstance(x, torch.device):
            return ["device"]
        if isinstance(x, (specs.Spec, specs.Epilogue, specs.Part)):
            return ["spec", type(x).__name__, self.value(_fields(x), program)]
        raise InputError(f"plan.save: an argument {x!r:.80} has no form in a file")

    def tensor(self, x: Tensor) -> str:
        stored = x.detach().cpu().contiguous()
        found = digest({"": stored})
        if found not in self.known:
            self.known[found] = f"weight.{len(self.known)}"
            self.tensors[self.known[found]] = stored.clone()
        return self.known[found]


def save(path: str | PathLike[str], programs: dict[tuple, Program], about: dict[str, Any], arch: int | None) -> None:
    """Writes programs by their keys, what the plan says of itself, and its kernels for compute capability `arch` (None: none)."""
    from safetensors.torch import save as to_bytes

    check_writable(path)
    writer = _Writer()
    listed = [writer.program(key, program) for key, program in programs.items()]
    if arch is not None:
        launches = (one for program in programs.values() for ready in program.steps for one in ready.launches)
        records, code = compiled(launches, arch)
        about = {**about, "kernels": {"made": made_by(), "records": records}}
        writer.tensors |= {
            f"{CODE}{name}": torch.frombuffer(bytearray(x), dtype=torch.uint8) for name, x in code.items()
        }
    text = json.dumps({"format": FORMAT, "convatlas": __version__, **about, "programs": listed}, allow_nan=False)
    data = bytearray(to_bytes(writer.tensors, {KEY: text, "sha256": NONE.decode()}))
    found = HASH.search(data)
    data[slice(*found.span(1))] = sha256(data).hexdigest().encode()
    with whole(path) as temporary:
        temporary.write_bytes(data)


def read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(the JSON, the tensors) of a file that save wrote, every byte as it was written.

    Raises InputError, one line, for a file that is missing, damaged, of another kind or of a newer format.
    """
    from safetensors.torch import load

    name = f"plan {shown(path)}"
    data = bytearray(readable(path, "plan").read_bytes())
    end = 8 + int.from_bytes(data[:8], "little")
    header = bytes(data[8:end]) if 8 < end <= len(data) else b""
    try:
        metadata = json.loads(header).get("__metadata__") or {}
        known = KEY in metadata
    except (ValueError, AttributeError, TypeError):
        known = False
    found = HASH.search(data, 8, end) if known else None
    if found is None:
        damaged = f'"{KEY}"'.encode() in data
        raise InputError(
            f"{name}: " + ("is damaged" if damaged else "is no plan, expected a file that plan.save wrote")
        )
    given, place = found.group(1), slice(*found.span(1))
    data[place] = NONE
    if sha256(data).hexdigest().encode() != given:
        raise InputError(f"{name}: is damaged, its hash is not the one that it was written with")
    document = json.loads(metadata[KEY])
    if document["format"] > FORMAT:
        raise InputError(
            f"{name}: has format {document['format']} of convatlas {document['convatlas']}, and this is {__version__}, which reads "
            f"formats up to {FORMAT}: install a newer convatlas"
        )
    return {**document, "sha256": given.decode()}, load(bytes(data))


def as_reference(
    document: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the tensors of the same plan for the CPU and the NumPy backend, its own dtype replaced by another."""
    own = document["dtypes"][0]

    def other(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: other(part) for name, part in x.items()}
        return list(map(other, x)) if isinstance(x, list) else _name(dtype) if x == own else x

    kinds = {"programs": other(document["programs"]), "dtypes": other(document["dtypes"])}
    changed = {name: x.to(dtype) if _name(x.dtype) == own else x for name, x in tensors.items()}
    return {**document, **kinds, "architecture": "cpu", "backend": "numpy"}, changed


def kernels_of(document: dict[str, Any], tensors: dict[str, Tensor]) -> Carried | None:
    """The kernels of a file, None where it has none. Raises InputError for those that do not fit their names."""
    found = document.get("kernels")
    if found is None:
        return None
    code = {name.removeprefix(CODE): x.numpy().tobytes() for name, x in tensors.items() if name.startswith(CODE)}
    return Carried(found["records"], code, found["made"])


def graph_from(
    entry: dict[str, Any], tensors: dict[str, Tensor], device: torch.device
) -> tuple[Graph, dict[str, Place]]:
    """The graph of a program and where its values lie."""
    weights: dict[tuple[str, str], Weight] = {}

    def back(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: back(part) for name, part in x.items()}
        if not isinstance(x, list):
            return x
        kind, *rest = x
        if kind == "float":
            return float(rest[0])
        if kind == "ref":
            return Ref(rest[0])
        if kind == "device":
            return device
        if kind == "weight":
            return weight(*rest)
        if kind == "spec":
            return getattr(specs, rest[0])(**back(rest[1]))
        if kind in KINDS:
            return _of_torch(kind, rest[0])
        return (tuple if kind == "tuple" else list)(map(back, rest))

    def weight(name: str, key: str) -> Weight:
        if (name, key) not in weights:
            x = tensors[key]
            weights[name, key] = Weight(name, tuple(x.shape), x.dtype, lambda get: x)
        return weights[name, key]

    def step(data: dict[str, Any]) -> Step:
        return Step(
            data["path"],
            tuple(data["outputs"]),
            None if data["call"] is None else _call(data["call"], back),
            back(data["operands"]),
            None if data["target"] is None else _target(data["target"]),
            back(data["args"]),
            back(data["keywords"]),
            data["kind"],
            data["index"],
            tuple(data["merged"]),
        )

    values = {n: Value(n, tuple(shape), _of_torch("dtype", dtype)) for n, shape, dtype in entry["values"]}
    places = {n: Place(buffer, start, tuple(strides)) for n, (buffer, start, strides) in entry["places"].items()}
    strides = {n: tuple(x) for n, x in entry["strides"].items()}
    rebuild = partial(tree_unflatten, treespec=treespec_loads(entry["tree"]))
    steps = [step(data) for data in entry["steps"]]
    return Graph(entry["inputs"], back(entry["outputs"]), values, steps, strides, rebuild, *entry["torch"]), places


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _name(x: Any) -> str:
    return str(x).removeprefix("torch.")


def _of_torch(kind: str, name: str) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, KINDS[kind]):
        raise InputError(f"torch has no {kind} {name!r:.40} here")
    return found


def _target(text: str) -> Any:
    """An op of PyTorch's by its full name, "aten.silu.default"."""
    space, _, rest = text.partition(".")
    name, _, overload = rest.partition(".")
    try:
        if space != "aten":
            raise AttributeError
        return getattr(getattr(torch.ops.aten, name), overload)
    except AttributeError:
        raise InputError(f"torch {torch.__version__} has no op {text!r:.80}") from None


def _call(data: dict[str, Any], back: Any) -> Call:
    kind, given = data["spec"]
    spec = getattr(specs, kind)(**back(given))
    epilogue = None if data["epilogue"] is None else specs.Epilogue(**data["epilogue"])
    backend = data.get("backend", "meta")  # of files before convatlas wrote it
    return Call(data["op"], spec, epilogue, back(data["params"]), backend, data["dtype"])

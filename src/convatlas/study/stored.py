"""Stored summaries of the networks, which never change between runs. So `nets` and `lecture` answer at once and without torch.

    python -m convatlas.study.stored        computes them anew

summaries.json holds what a trace yields and nothing that follows from it: each op's spec, where its inputs come from, and its
parameters. Sums, shares, receptive fields and verdicts are computed from these. A test traces all networks again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, NamedTuple

from convatlas import specs
from convatlas.call import Call
from convatlas.files import write_text
from convatlas.study.layer import Layer, Node, Uncounted
from convatlas.study.receptive import fields
from convatlas.study.summary import Row, Summary

PATH = Path(__file__).with_name("summaries.json")


class Key(NamedTuple):
    """What a summary of a network depends on; at its own size, as study.summarise takes it."""

    name: str
    batch: int = 1
    dtype: str = "float16"
    train: bool = False
    options: tuple[tuple[str, Any], ...] = ()


def load(path: Path = PATH) -> dict[Key, Summary]:
    """All summaries that are stored."""
    held = json.loads(path.read_text(encoding="utf-8"))
    layers = [_layer(*item) for item in held["layers"]]
    return {(key := Key(*item[:4], _tuples(item[4]))): _summary(key, layers, *item[5:]) for item in held["summaries"]}


def _layer(
    op: str, kind: str, values: list[Any], epilogue: list[Any] | None, params: dict[str, Any], run_by: str
) -> Layer:
    spec = getattr(specs, kind)(*_tuples(values))
    return Layer("", Call(op, spec, None if epilogue is None else specs.Epilogue(*epilogue), params), run_by)


def _summary(
    key: Key, layers: list[Layer], shape: list[int], parameters: int, rows: list[list[Any]], uncounted: list[list[Any]]
) -> Summary:
    nodes, counts = [], []
    for path, place, sources, count in rows:
        nodes.append(Node(replace(layers[place], path=path), _tuples(sources), ()))
        counts.append(count)
    made = (
        Row(node.layer, count, node.layer.spec.bytes(key.dtype, node.layer.epilogue), seen, node.sources)
        for node, count, seen in zip(nodes, counts, fields(nodes))
    )
    return Summary(
        key.name, tuple(shape), key.dtype, tuple(made), parameters, tuple(Uncounted(*_tuples(u)) for u in uncounted)
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def dumped(summaries: Mapping[Key, Summary]) -> str:
    """The text of summaries.json: one line a layer and one a network, so that a diff shows a change; equal layers stand once."""
    places: dict[str, int] = {}
    lines = []
    for key, s in summaries.items():
        rows = [
            [row.layer.path, places.setdefault(_dumps(_parts(row.layer)), len(places)), row.sources, row.parameters]
            for row in s.rows
        ]
        lines.append(_dumps([*key, s.input_shape, s.parameters, rows, [astuple(u) for u in s.uncounted]]))
    return '{"layers":[\n' + ",\n".join(places) + '\n],"summaries":[\n' + ",\n".join(lines) + "\n]}\n"


def _parts(layer: Layer) -> list[Any]:
    spec, epilogue = layer.spec, layer.epilogue
    values = [getattr(spec, field.name) for field in fields_of(spec)]
    return [layer.op, type(spec).__name__, values, astuple(epilogue) if epilogue else None, layer.params, layer.run_by]


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def computed() -> dict[Key, Summary]:
    """Every network's summary, and those that the lecture's claims ask for besides, each from a trace made now."""
    from convatlas.nets import registry
    from convatlas.study import lecture
    from convatlas.study.lecture.atlas import Atlas

    atlas = Atlas()
    for name in registry.names():
        atlas.summary(name)
    for topic in map(lecture.topic, lecture.names()):
        for claim in topic.claims:
            claim.compute(atlas)
    return dict(atlas.summaries)


if __name__ == "__main__":
    write_text(PATH, dumped(computed()))
    print(f"wrote {PATH}")

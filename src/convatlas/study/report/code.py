"""The code of a layer for the page: NumPy, Triton, CUDA C++, and the machine code's main loop."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from convatlas.errors import ConvAtlasError
from convatlas.study.mapping import Map, Progress, element_of, quiet

PLAIN = {"conv2d": "conv2d_plain"}  # the loops that say what is computed, in place of their quicker form


@dataclass(frozen=True)
class Pane:
    """One text: the language, its name (equal names, equal texts) and the text."""

    language: str
    name: str
    text: str


@dataclass(frozen=True)
class Code:
    """All panes of a layer."""

    panes: tuple[Pane, ...]


def code_of(found: Map, progress: Progress = quiet) -> dict[tuple, Code]:
    """The panes of every distinct layer. Kernels are those of the config chosen; SASS is that of the backend that is mapped."""
    distinct = {one.layer.key: one for one in found.layers}
    codes = {}
    for done, (key, one) in enumerate(distinct.items(), 1):
        panes = [_numpy(one.layer.op)]
        for backend, language in (("triton", "Triton"), ("cuda", "CUDA C++")):
            panes += _sources(one, found, backend, language)
        panes.append(_sass(one, found))
        codes[key] = Code(tuple(pane for pane in panes if pane is not None))
        progress("reading code", done, len(distinct))
    return codes


def _numpy(op: str) -> Pane | None:
    import convatlas.reference as reference

    function = getattr(reference, PLAIN.get(op, op), None)
    if function is None:
        return None
    path = Path(inspect.getfile(function))
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    begin = min((node.lineno for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))), default=1)
    return Pane("NumPy", f"reference/{path.name}", "\n".join(text.splitlines()[begin - 1 :]))


def _sources(one: Any, found: Map, backend: str, language: str) -> Iterable[Pane]:
    from convatlas.codegen.inventory import launches_of
    from convatlas.kernels.common.cuda.launch import CudaLaunch
    from convatlas.kernels.common.cuda.source import ROOT
    from convatlas.kernels.common.target import of
    from convatlas.study.inspecting import kernel_text

    try:
        launches = launches_of(
            replace(one.layer.call, dtype=element_of(found.dtype)), found.dtype, of(found.gpu), backend
        )
    except ConvAtlasError:
        return
    for launch in launches[:1]:
        if isinstance(launch, CudaLaunch):
            text = (ROOT / launch.source).read_text(encoding="utf-8")
            yield Pane(language, f"kernels/{launch.source}", text)
        else:
            text = kernel_text(launch.kernel)
            yield Pane(language, f"{launch.kernel.__name__}", text)


def _sass(one: Any, found: Map) -> Pane | None:
    """The main loop; of a kernel without one, its beginning."""
    from convatlas.study.inspecting import inspect

    if one.note:
        return Pane(
            "SASS", f"sass of {one.layer.spec} {one.layer.op} {one.layer.epilogue}", f"; not compiled: {one.note}"
        )
    try:
        seen = inspect(one.layer, gpu=found.gpu, dtype=found.dtype, backend=one.backend)
    except ConvAtlasError as error:
        return Pane("SASS", f"sass of {one.layer.spec} {one.layer.op} {one.layer.epilogue}", f"; not compiled: {error}")
    launch = next((launch for launch in seen.launches if launch.work.gemm), seen.launches[0])
    places = launch.loop.body if launch.loop else range(min(len(launch.code), SHOWN))
    what = "the main loop" if launch.loop else "the beginning: no loop multiplies"
    cut = f"; the first {SHOWN} of {len(places)}" if len(places) > SHOWN else ""
    lines = [f"; {launch.expression[:90]}", f"; {what}, {len(places)} of {len(launch.code)} instructions{cut}"]
    lines += [f"{launch.code[i].address:05x}  {launch.code[i]!s}" for i in list(places)[:SHOWN]]
    text = "\n".join(lines)
    return Pane("SASS", f"sass {sha256(text.encode()).hexdigest()[:10]}", text)


SHOWN = 160  # instructions of a kernel on the page

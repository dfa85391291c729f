"""Runs one case and says what is wrong with it: against the reference's bound, against torch, and in memory."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import convatlas
from convatlas.ops.backend_numpy import as_array
from convatlas.ops.observe import observe
from convatlas.reference.error_bound import check
from convatlas.reference.truth import truth
from fuzz import like_torch
from fuzz.cases import Case, T, made
from fuzz.differences import difference
from fuzz.outs import OUTS, forbidden, places, repeats

THREADS = 4


def judge(case: Case) -> str | None:
    """What is wrong with the case's result or error, in a line; None where it is right."""
    if case.backend == "reference":
        return _reference(case)
    if case.mode == "threads":
        return _threads(case)
    if case.mode == "jvp":
        return _jvp(case)
    return _call(case)


def _call(case: Case) -> str | None:
    args = {name: made(value) for name, value in case.args.items()}
    expected = like_torch.answer(case.op, args)
    if case.out is not None:
        like = (
            expected.result
            if isinstance(expected.result, Tensor)
            else next(iter(like_torch.operands(args).values()), None)
        )
        if not isinstance(like, Tensor) or like.is_meta:
            return None
        like = torch.empty(like.shape, dtype=next(iter(like_torch.operands(args).values())).dtype)
        moved = like_torch.operands(args)
        args["out"] = OUTS[case.out](like, moved)
        if "tensors" in args:
            args["tensors"] = [moved[str(i)] for i in range(len(args["tensors"]))]
        args.update((name, x) for name, x in moved.items() if name in args)
    inputs = like_torch.operands({name: value for name, value in args.items() if name != "out"})
    wrong_out = None
    if case.out is not None:
        wrong_out = forbidden(case.op, args["out"], inputs, like if expected.result is not None else None)
    before = _storages([*inputs.values(), args.get("out")])

    seen: list[tuple] = []

    def keep(call: Any, tensors: dict[str, Tensor], output: Tensor) -> None:
        arrays = {name: as_array(x) for name, x in tensors.items()} if not output.is_meta else None
        seen.append((call, arrays, output))

    try:
        with observe(keep), torch.no_grad():
            got = getattr(convatlas, case.op)(**args, backend=case.backend)
    except convatlas.ConvAtlasError as error:
        if wrong := _message(case, error):
            return wrong
        if expected.refused or expected.unable or wrong_out or difference(case, expected, error):
            return None
        return f"refused, while torch answers: {type(error).__name__}: {error}"
    except Exception as error:
        ours = like_torch.Answer(error=error)
        if expected.unable and ours.unable and type(error) is type(expected.error):
            return None  # neither has the memory
        return f"a raw {_named(error)}"
    if wrong_out:
        return f"accepted, though {wrong_out}"
    if expected.refused and not difference(case, expected, None):
        return f"accepted, while torch refuses: {_named(expected.error)}"
    if case.op == "batch_norm" and case.args.get("training"):
        return None  # two ops and a write to its statistics, which tests/ops/test_gradients.py holds
    if len(seen) != 1:
        return f"{len(seen)} calls were observed, expected 1"
    return _compare(case, got, expected, seen[0]) or _memory(before, [*inputs.values()], args.get("out"), got)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _message(case: Case, error: convatlas.ConvAtlasError) -> str | None:
    """An error is one line that names its op, or the backend that is not here."""
    text = str(error)
    if "\n" in text or len(text) > 700 or (case.op not in text and "backend" not in text):
        return f"a message that is not one line about {case.op}: {text[:120]!r}"
    if isinstance(error, convatlas.ShapeError) and "activation=" in text:
        return f"a ShapeError for what is no shape: {text}"
    return None


def _compare(case: Case, got: Any, expected: like_torch.Answer, seen: tuple) -> str | None:
    call, arrays, output = seen
    theirs = expected.result
    ours, theirs = (tuple(y) if isinstance(y, (tuple, list)) else (y,) for y in (got, theirs))
    if theirs[0] is not None:
        for a, b in zip(ours, theirs):
            if a.shape != b.shape:
                return f"a result of shape {tuple(a.shape)}, torch's {tuple(b.shape)}"
    if output.is_meta:
        return None
    if call.params.get("bias_grad") and theirs[0] is not None:
        room = 1e-2 * theirs[1].abs() + 1e-2 * arrays_sum(arrays["grad_output"])
        if not _alike(ours[1].double(), theirs[1], room):
            return f"a bias's gradient of {ours[1].tolist()[:4]}, torch's {theirs[1].tolist()[:4]}"
    elif len(ours) == 2 and theirs[0] is not None and not torch.equal(*(y[1].to(torch.int64) for y in (ours, theirs))):
        i = int((ours[1] != theirs[1]).flatten().nonzero()[0])
        return f"index {int(ours[1].flatten()[i])} at {i}, torch's {int(theirs[1].flatten()[i])}"
    exact = all(t.data == "integers" and t.scale == 1 for t in described(case.args)) and _sums_exactly(call)
    held = truth(call.op, call.spec, call.epilogue, arrays, call.params)
    report = check(as_array(output), held, dtype=call.dtype, exact=exact)
    if not report.ok:
        return f"outside the reference's bound: {report.detail}"
    if theirs[0] is not None:
        value = torch.as_tensor(held.value).reshape(theirs[0].shape)
        room = (
            torch.as_tensor(held.magnitude).reshape(value.shape) * 1e-8 + 1e-8 * theirs[0].abs().nan_to_num() + 1e-300
        )
        same = (value == theirs[0]) | (value.isnan() & theirs[0].isnan()) | ((value - theirs[0]).abs() <= room)
        if not same.all() and not difference(case, expected, None):
            at = int((~same).flatten().nonzero()[0])
            return f"the reference has {float(value.flatten()[at])} at {at}, torch {float(theirs[0].flatten()[at])}"
    return None


def arrays_sum(dy: np.ndarray) -> Tensor:
    """The absolute sum of each filter's gradients."""
    return torch.from_numpy(np.abs(np.nan_to_num(dy.astype(np.float64), posinf=0, neginf=0)).sum((0, 2, 3)))


def _alike(a: Tensor, b: Tensor, room: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= room.nan_to_num(0, 0, 0))).all())


def _sums_exactly(call: Any) -> bool:
    return call.op in ("conv2d", "linear", "residual_add") and call.dtype != "bfloat16"


def described(args: dict[str, Any]) -> list[T]:
    """The tensors among the arguments as they are described."""
    return [t for v in args.values() for t in (v if isinstance(v, list) else [v]) if isinstance(t, T)]


def _storages(tensors: list[Any]) -> dict[int, tuple[Tensor, Tensor]]:
    """Each storage once, by its address: (a view of all of it, a copy)."""
    found = {}
    for x in tensors:
        if isinstance(x, Tensor) and not x.is_meta and x.numel():
            length = x.untyped_storage().nbytes() // x.element_size()
            whole = x.detach().as_strided((length,), (1,), 0)
            found[x.untyped_storage().data_ptr()] = (whole, whole.clone())
    return found


def _memory(before: dict, inputs: list[Tensor], out: Any, got: Any) -> str | None:
    """What a call may not write: its inputs, and what lies round out."""
    for address, (whole, copy) in before.items():
        mine = torch.zeros(whole.shape, dtype=torch.bool)
        if isinstance(out, Tensor) and out.numel() and out.untyped_storage().data_ptr() == address:
            mine[places(out).flatten()] = True
        changed = ~((whole == copy) | (whole.isnan() & copy.isnan()) | mine)
        if changed.any():
            return f"{int(changed.sum())} elements outside out were written"
    if out is not None and got is not out:
        return "what is returned is not out"
    if out is None and isinstance(got, Tensor) and got.numel() and not got.is_meta:
        if got.untyped_storage().data_ptr() in before:
            return "the result shares memory with an input"
        if repeats(got):
            return "the result overlaps itself"
    return None


def _reference(case: Case) -> str | None:
    """The functions of convatlas.reference themselves, NumPy arrays in and out, against torch."""
    args = {name: made(value) for name, value in case.args.items()}
    expected = like_torch.answer(case.op, args)
    arrays = {name: _array(value) for name, value in args.items()}
    first = {"batch_norm": ("input", "running_mean", "running_var")}.get(
        case.op, ("grad_output", "input", "weight", "x", "shortcut", "tensors")
    )
    names = [name for name in first if name in args]
    placed = [arrays.pop(name) for name in names]
    try:
        got = getattr(convatlas.reference, case.op)(*placed, **arrays)
    except convatlas.ConvAtlasError as error:
        if expected.error is not None or difference(case, expected, error):
            return _message(case, error)
        return f"refused, while torch answers: {_named(error)}"
    except Exception as error:
        if expected.unable and isinstance(error, (MemoryError, OverflowError)):
            return None
        return f"a raw {_named(error)}"
    if expected.error is not None:
        allowed = expected.unable or difference(case, expected, None)
        return None if allowed else f"accepted, while torch refuses: {_named(expected.error)}"
    for y, e in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, expected.result))):
        if np.shape(y) != tuple(e.shape):
            return f"a result of shape {np.shape(y)}, torch's {tuple(e.shape)}"
        if not np.allclose(y, e.numpy(), rtol=1e-9, atol=1e-9, equal_nan=True):
            return f"another result than torch's: {np.ravel(y)[:3]}, torch's {np.ravel(e.numpy())[:3]}"
    return None


def _array(value: Any) -> Any:
    if isinstance(value, list):
        return [_array(v) for v in value]
    return value.double().numpy() if isinstance(value, Tensor) else value


def _threads(case: Case) -> str | None:
    """The same op on other data in four threads at once: each must be right."""

    def one(i: int) -> str | None:
        def reseeded(value: Any) -> Any:
            if isinstance(value, list):
                return [reseeded(v) for v in value]
            return replace(value, seed=value.seed + 100 * i) if isinstance(value, T) else value

        args = {name: reseeded(value) for name, value in case.args.items()}
        return next(filter(None, (_call(replace(case, mode="call", args=args)) for _ in range(2))), None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            found = [wrong for wrong in pool.map(one, range(THREADS)) if wrong]
    finally:
        sys.setswitchinterval(interval)
    return f"in a thread: {found[0]}" if found else None


def _jvp(case: Case) -> str | None:
    """The derivative along a direction is torch's, or the call is refused."""
    args = {name: made(value) for name, value in case.args.items()}
    names = [n for n, x in args.items() if isinstance(x, Tensor)][:1]
    if not names:
        return None
    x = args.pop(names[0]).contiguous()  # torch's own rules cannot write the derivative of an expanded tensor
    direction = torch.ones_like(x)

    def along(f: Any, **extra: Any) -> Tensor:
        return torch.func.jvp(lambda x: f(**{names[0]: x}, **args, **extra), (x,), (direction,))[1]

    try:
        expected = along(like_torch.OPS[case.op])
    except RuntimeError:  # not a call of which torch has a derivative
        return None
    try:
        got = along(getattr(convatlas, case.op), backend=case.backend)
    except convatlas.ConvAtlasError:
        return None
    except Exception as error:
        return f"in a forward-mode derivative: a raw {_named(error)}"
    if not torch.allclose(got.float(), expected.float(), rtol=1e-2, atol=1e-2, equal_nan=True):
        return f"a wrong forward-mode derivative: {float(got.flatten()[0])}, torch's {float(expected.flatten()[0])}"
    return None

"""The short way of a call that was made before: a look-up, the addresses, and the driver (kernels/common/prepared.py).

A call's first way is the ordinary one, through torch's dispatcher, and leaves a Prepared behind. A later call of the same key
replays it, on a GPU, where nothing looks on that the dispatcher would tell: no compiler, tracer, mode, transform, autocast,
profiler, observer or gradient. What the dispatcher brings to an op's own code by torch.ops, as torch.compile and autograd call it,
is replayed there, of entries of its own. CONVATLAS_PREPARED=0 in the environment turns it off. All that a call can depend on is in
its key or in its guard, so a changed setting is another entry:

    key     op, side of the dispatcher, parameters with their types, backend settings, forced config, TF32, shapes, alignment
    guard   of every tensor its class, dispatch keys (autocast, inference mode, neg), dtype, device, sizes, strides, requires_grad

The guard is torch's own, TensorGuards, by which torch.compile decides whether compiled code fits.
"""

from __future__ import annotations

import marshal
import os
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import chain
from threading import Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from convatlas.errors import BackendError, ConvAtlasWarning
from convatlas.kernels.common.interpreter import interpreting
from convatlas.kernels.common.override import forced_config
from convatlas.kernels.common.prepared import ALIGNMENT, Prepared, Request, Unprepared, requested
from convatlas.ops.backends import current_backend
from convatlas.ops.observe import observed

KEYS, A_KEY = 2048, 8  # keys that are kept, the least recently used going first, and entries of a key
LOW = ALIGNMENT - 1
MISS = object()
DENSE = (Tensor, Parameter)


class Entry(NamedTuple):
    """What a key and a guard lead to: launches, or None for what stays on the ordinary path."""

    guard: Callable[..., bool]
    prepared: Prepared | None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    extents: tuple[int, ...] = ()  # bytes from the first element of each operand, and of the output, to behind its last
    grad: bool = False  # an operand requires a gradient, so that this is for torch.no_grad() only


class _State:
    """What this process knows. `driver` is None where nothing is prepared, and not asked for before the first CUDA tensor."""

    def __init__(self) -> None:
        self.asked = False
        self.driver: Any = None
        self.entries: OrderedDict[tuple, list[Entry]] = OrderedDict()
        self.held: set[int] = set()  # kernels whose replay has been held against the ordinary path
        self.reasons: Counter[str] = Counter()  # why calls stay on the ordinary path
        self.fault: str = ""  # why nothing is prepared here, although it could be


_state = _State()
_hooks = None  # triton.knobs.runtime, once a Triton kernel has been prepared
# os.environ decodes anew on every look; the bytes that it keeps are the same ones that os.putenv's callers see.
_environment, _variable = getattr(os.environ, "_data", {}), os.fsencode("CONVATLAS_BACKEND")
_precision = getattr(torch._C, "_get_fp32_precision_getter", None)
_functions, _dispatchers = torch._C._len_torch_function_stack, torch._C._len_torch_dispatch_stack
_profiled, _with_grad = torch._C._autograd._profiler_enabled, torch.is_grad_enabled


@contextmanager
def using(driver: Any) -> Iterator[_State]:
    """Inside the block launches go through `driver` (None: every call takes the ordinary path); what was prepared is set aside."""
    global _state
    before, _state = _state, _State()
    _state.asked, _state.driver = True, driver
    try:
        yield _state
    finally:
        _state = before


def state() -> _State:
    """What is prepared, and what is not, and why."""
    return _state


def settings(op: str) -> tuple:
    """All that a call of the op depends on besides its arguments: backends chosen, a forced config, TF32."""
    matmul = "matmul" if op == "linear" else "conv"
    return current_backend(), _environment.get(_variable), forced_config(), _precision("cuda", matmul)


def looked_at() -> bool:
    """Whether somebody looks on whom the dispatcher would tell: a mode, the profiler, an observer, forward-mode derivatives."""
    return bool(_functions() or _dispatchers() or _profiled() or observed() or forward_ad._current_level >= 0)


def call(
    op: str,
    args: tuple,
    keywords: dict[str, Any],
    ordinary: Callable[..., Any],
    found: Callable[[_State, Entry, tuple], None] | None = None,
    inside: bool = False,
) -> Any:
    """The op's result, by the short way where there is one, else `ordinary(*args, **keywords)`.

    `found` is told of an entry that was replayed on aligned operands, and of the settings under which it holds. `inside` is a call
    by torch.ops, which the dispatcher has brought behind autograd; one that a call takes on its ordinary way is no call of its own.
    """
    state = _state
    if (state.asked and state.driver is None) or (inside and requested.get() is not None):
        return ordinary(*args, **keywords)
    operands: list[Tensor] = []
    rest: list[Any] = []
    out = None
    for value in chain(args, keywords, keywords.values()) if keywords else args:
        kind = type(value)
        if kind is Tensor or kind is Parameter:
            operands.append(value)
            rest.append(...)
        elif (kind is list or kind is tuple) and value and type(value[0]) in DENSE:
            operands += value
            rest.append((..., len(value)))
        else:
            rest.append(value)
    if keywords and (out := keywords.get("out")) is not None:
        operands = [x for x in operands if x is not out]
    if not operands or not (state.asked or _ask(state, operands[0])):
        return ordinary(*args, **keywords)
    if looked_at():
        return ordinary(*args, **keywords)
    try:
        given = operands if out is None else [*operands, out]
        addresses = [x.data_ptr() for x in given]
        low = 0
        for address in addresses:
            low |= address
        key = (
            op,
            inside,
            marshal.dumps(
                rest, 2
            ),  # by type too: 1, 1.0 and True are three parameters; what it cannot write is no plain one
            current_backend(),
            _environment.get(_variable),
            forced_config(),
            low & LOW and tuple(address & LOW for address in addresses),
            operands[0].dtype is torch.float32
            and _precision("cuda", "matmul" if op == "linear" else "conv"),  # may_be_tf32
            *[x.shape for x in operands],
        )
        entries = state.entries.get(key, ())
    except (
        ValueError,
        TypeError,
        RuntimeError,
        AttributeError,
    ):  # a wrapper, a tensor without memory, an argument of another kind
        return ordinary(*args, **keywords)
    for entry in entries:
        if entry.guard(*given):
            result = replayed(state, entry, key, operands, out, addresses)
            if result is MISS:
                return ordinary(*args, **keywords)
            if found is not None and not low & LOW:
                found(state, entry, settings(op))
            return result
    return _first(state, key, operands, out, lambda: ordinary(*args, **keywords))


def replayed(
    state: _State, entry: Entry, key: tuple | None, operands: list[Tensor], out: Any, addresses: list[int]
) -> Any:
    """The result by an entry whose guard holds, or MISS where it may not be used now."""
    prepared = entry.prepared
    if prepared is None or state.driver is None or (entry.grad and _with_grad()) or (prepared.triton and hooked()):
        return MISS
    if out is None:
        result = operands[0].new_empty_strided(entry.shape, entry.strides)
        address = result.data_ptr()
        if address & LOW:
            return MISS
        addresses.append(address)
    else:
        result, start, end = out, addresses[-1], addresses[-1] + entry.extents[-1]
        if any(a < end and start < a + extent for a, extent in zip(addresses[:-1], entry.extents)):
            return MISS  # whether they share an element, the ordinary path finds out
    prepared.replay(operands, addresses)
    if out is not None:
        torch.autograd.graph.increment_version(out)
    if key is not None:
        try:  # noqa: SIM105 (contextlib.suppress costs more than the call)
            state.entries.move_to_end(key)
        except KeyError:  # another thread has just dropped it
            pass
    return result


def driver_for(x: Tensor) -> Any:
    """What launches prepared launches on x's device; None where nothing is prepared."""
    state = _state
    return state.driver if state.asked or _ask(state, x) else None


def _ask(state: _State, x: Tensor) -> bool:
    """Whether launches are prepared here; asked when the first tensor on a GPU comes."""
    if not x.is_cuda:
        return False
    state.asked = True
    if interpreting() or os.environ.get("CONVATLAS_PREPARED") == "0":
        state.fault = "kernels are interpreted here" if interpreting() else "CONVATLAS_PREPARED is 0"
        return False
    try:
        from convatlas.kernels.common.driver import cuda_driver

        if _precision is None or not _environment:
            raise BackendError(
                "launches are not prepared: this version of torch or Python is not known to the short way"
            )
        state.driver = cuda_driver()
    except (BackendError, AttributeError) as error:
        state.fault = str(error)
    return state.driver is not None


def hooked() -> bool:
    """Whether a profiler listens to Triton's launches."""
    global _hooks
    if _hooks is None:
        from triton import knobs

        _hooks = knobs.runtime
    enter, leave = _hooks.launch_enter_hook, _hooks.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


def _first(state: _State, key: tuple, operands: list[Tensor], out: Tensor | None, ordinary: Callable[[], Any]) -> Any:
    """Runs the ordinary way, and keeps what it leaves behind."""
    driver = state.driver
    alone = len({id(x) for x in operands}) == len(
        operands
    )  # of one tensor given twice nobody could tell which is meant
    if not alone or not _plain(operands, out) or driver.is_capturing(operands[0].get_device()):
        return ordinary()
    request = Request(operands, out, driver)
    token = requested.set(request)
    try:
        result = ordinary()
    finally:
        requested.reset(token)
    if isinstance(result, Tensor):
        _keep(state, key, request, result)
    return result


def _plain(operands: list[Tensor], out: Tensor | None) -> bool:
    """Whether the call may be prepared: no gradient, autocast, tracer or transform now, and no memory shared with `out`."""
    if _dispatching() not in _ordinary_dispatching() or (_with_grad() and any(x.requires_grad for x in operands)):
        return False
    if out is None:
        return True
    start, end = out.data_ptr(), out.data_ptr() + _extent(out)
    return not out.is_inference() and not any(
        x.data_ptr() < end and start < x.data_ptr() + _extent(x) for x in operands
    )


def _dispatching() -> tuple[int, int]:
    """What this thread's dispatcher adds to, and takes from, the keys of every tensor: modes, tracers, transforms, autocast."""
    return torch._C._dispatch_tls_local_include_set().raw_repr(), torch._C._dispatch_tls_local_exclude_set().raw_repr()


@cache
def _ordinary_dispatching() -> frozenset[tuple[int, int]]:
    """It of a thread in which nothing is on, and of one in inference mode, each in front of autograd and behind it: asked in a
    thread of its own.
    """
    found = []

    def ask() -> None:
        for mode in (nullcontext(), torch.inference_mode()):
            with mode:
                found.append(_dispatching())
                with torch._C._AutoDispatchBelowAutograd():
                    found.append(_dispatching())

    thread = Thread(target=ask)
    thread.start()
    thread.join()
    return frozenset(found)


def _extent(x: Tensor) -> int:
    return x.element_size() * (1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride()))) if x.numel() else 0


def _keep(state: _State, key: tuple, request: Request, result: Tensor) -> None:
    given = request.operands if request.out is None else [*request.operands, request.out]
    try:
        guard = torch._C._dynamo.guards.TensorGuards(
            *given,
            dynamic_dims_sizes=[list(x.shape) for x in given],
            dynamic_dims_strides=[list(x.stride()) for x in given],
        ).check
        if not guard(*given):
            raise Unprepared("torch's guard does not hold for the call that it was made of")
        prepared = request.prepared
        if prepared is not None:
            _hold(state, prepared, request.operands, result)
    except Unprepared as reason:
        request.reason, prepared = str(reason), None
    except (TypeError, AttributeError) as error:  # another version's guard
        _give_up(state, f"torch's guards are not as expected ({error})")
        return
    if state.fault:
        return
    if prepared is None:
        state.reasons[request.reason] += 1
    extents = tuple(map(_extent, (*request.operands, result)))
    grad = any(x.requires_grad for x in given)
    entry = Entry(guard, prepared, tuple(result.shape), result.stride(), extents, grad)
    entries = state.entries
    entries[key] = [entry, *entries.get(key, ())][:A_KEY]  # replaced whole: other threads may be reading the old list
    while len(entries) > KEYS:
        entries.popitem(last=False)


def _hold(state: _State, prepared: Prepared, operands: list[Tensor], result: Tensor) -> None:
    """Holds a kernel's first replay against what the ordinary path computed, bit for bit; where they differ all is given up."""
    kernels = {kernel.function for kernel, _, _ in prepared.launches}
    if not prepared.driver.verifies or kernels <= state.held:
        return
    try:
        again = result.new_empty_strided(result.shape, result.stride())
        prepared.replay(operands, [x.data_ptr() for x in (*operands, again)])
        bits = torch.int16 if result.element_size() == 2 else torch.int32
        same = torch.equal(again.view(bits), result.view(bits))
    except torch.OutOfMemoryError:
        raise Unprepared("no memory to hold it against the ordinary path") from None
    except RuntimeError as error:
        _give_up(state, f"the driver refused a prepared launch ({error})")
        raise Unprepared(state.fault) from None
    if not same:
        _give_up(state, "a prepared launch gave other numbers than the ordinary path")
        raise Unprepared(state.fault)
    state.held |= kernels


def _give_up(state: _State, why: str) -> None:
    state.driver, state.fault = None, why
    state.entries.clear()
    warnings.warn(f"convatlas: {why}; every call now takes the ordinary path", ConvAtlasWarning, stacklevel=2)

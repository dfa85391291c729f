"""Ops in many threads at once are right, and what use_backend and observe reach is what their documentation says."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Barrier

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import convatlas
from convatlas.ops.observe import observe

# Small integers, whose sums are exact: a BLAS adds others up in another order when threads share it.
X, W = torch.randint(-4, 5, (2, 8, 7, 7)).float(), torch.randint(-2, 3, (8, 8, 3, 3)).float()
triton = pytest.param("triton", marks=pytest.mark.interpreter)
inherits = getattr(sys.flags, "thread_inherit_context", 0)  # free-threaded Python from 3.14 on


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns every 10 microseconds, not every 5 milliseconds, in which a whole small kernel would run."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("backend", ["numpy", "cuda", triton])
def test_threads_do_not_disturb_each_other(backend: str, eager_switching: None) -> None:
    def work(i: int) -> tuple[Tensor, ...]:
        x = X[: 1 + i % 2] + i  # launches of different grids
        y = convatlas.conv2d(x, W, padding=1, backend=backend)
        return y, convatlas.softmax(y, backend=backend), convatlas.max_pool2d(x, 2, backend=backend)

    expected = [work(i) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for got, wanted in zip(pool.map(work, range(6)), expected):
            assert all(map(torch.equal, got, wanted))


def backend_used(_: int = 0) -> str:
    seen = []
    with observe(lambda call, tensors, output: seen.append(call.backend)):
        convatlas.relu(X)
    return seen[0]


def in_new_thread(f: Callable[[], str]) -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(f).result()


def test_use_backend_stays_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVATLAS_BACKEND", raising=False)
    with convatlas.use_backend("cuda"):
        assert backend_used() == "cuda"
        assert in_new_thread(backend_used) == ("cuda" if inherits else "numpy")
        context = copy_context()
        assert in_new_thread(lambda: context.run(backend_used)) == "cuda"
    assert in_new_thread(lambda: context.run(backend_used)) == "cuda"  # the copy was made inside the block
    monkeypatch.setenv("CONVATLAS_BACKEND", "cuda")
    assert in_new_thread(backend_used) == "cuda"


def test_two_threads_hold_two_backends_at_once() -> None:
    both = Barrier(2)

    def run(name: str) -> str:
        with convatlas.use_backend(name):
            both.wait(60)
            return backend_used()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, ("numpy", "cuda"))) == ["numpy", "cuda"]


def test_use_backend_reaches_asyncio() -> None:
    async def task() -> str:
        return backend_used()

    async def main() -> list[str]:
        with convatlas.use_backend("cuda"):
            started = asyncio.create_task(task())
            threaded = asyncio.to_thread(backend_used)
        return [await started, await threaded, backend_used()]

    assert asyncio.run(main())[0] == "cuda"
    with convatlas.use_backend("cuda"):
        assert asyncio.run(main()) == ["cuda", "cuda", "cuda"]


def test_observe_stays_in_its_thread() -> None:
    seen = []
    with observe(lambda call, tensors, output: seen.append(call.op)):
        in_new_thread(lambda: str(convatlas.relu(X)))
        assert seen == ["relu"] * bool(inherits)
        context = copy_context()
        in_new_thread(lambda: context.run(lambda: str(convatlas.softmax(X))))
    assert seen[-1] == "softmax"


class Rectified(Dataset):
    """Examples that an op computes as they are loaded, with the backend that computed them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[Tensor, str]:
        return convatlas.relu(X[i % 2] - i), backend_used()


@pytest.mark.parametrize("backend", [triton])
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_data_loaders_processes(backend: str) -> None:
    """A forked worker has the context of the process that it was forked from, and a lock that nobody holds."""
    with convatlas.use_backend(backend), ThreadPoolExecutor(1) as pool:
        convatlas.relu(X)  # imports what it needs: a child forked during another thread's import waits for it for ever
        busy = pool.submit(copy_context().run, lambda: [convatlas.relu(X) for _ in range(50)])
        loader = DataLoader(Rectified(), batch_size=None, num_workers=2, multiprocessing_context="fork")
        for i, (y, used) in enumerate(loader):
            assert torch.equal(y, torch.relu(X[i % 2] - i)) and used == backend
        busy.result()

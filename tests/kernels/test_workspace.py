"""Which memory a thread keeps for workspaces: one piece a stream, never another thread's, and none of a graph's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from convatlas.kernels.common import workspace
from convatlas.kernels.common.workspace import Workspaces

CPU = torch.device("cpu")


@pytest.fixture
def take() -> Callable[..., Tensor]:
    kept = Workspaces()
    return lambda size, stream=0, capturing=False: kept.take(size, CPU, stream, capturing)


def test_one_piece_serves_a_stream(take: Callable[..., Tensor]) -> None:
    first = take(1000)
    assert take(500) is first and take(1000) is first and first.numel() == 1000
    assert take(1001) is take(1) and take(1) is not first


def test_streams_and_threads_have_their_own() -> None:
    kept = Workspaces()
    mine = [kept.take(64, CPU, stream, False) for stream in (1, 2)]
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(lambda: [kept.take(64, CPU, stream, False) for stream in (1, 2)]).result()
    assert len({x.data_ptr() for x in (*mine, *others)}) == 4


def test_a_graphs_memory_is_the_graphs(take: Callable[..., Tensor]) -> None:
    kept = take(64)
    assert take(64, capturing=True) is not kept and take(64) is kept


def test_what_is_kept_is_bounded(take: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "KEPT", 100)
    assert take(101) is not take(101)
    first = take(100, stream=0)
    for stream in range(1, workspace.STREAMS):
        take(100, stream)
    assert take(100, stream=0) is first  # the latest now, so that stream 1 goes next
    second = take(100, stream=1)
    take(100, stream=workspace.STREAMS)
    assert take(100, stream=1) is second and take(100, stream=0) is first

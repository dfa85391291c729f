"""Memory that is written twice, or read after it was written: found exactly, refused, and nothing else is refused."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import convatlas
from convatlas import layout

BUFFER = torch.zeros(1000)


def places(x: Tensor) -> list[int]:
    found = [x.storage_offset()]
    for n, s in zip(x.shape, x.stride()):
        found = [at + i * s for at in found for i in range(n)]
    return found


def view(draw: random.Random) -> Tensor:
    rank = draw.randint(0, 5)
    shape = [draw.randint(1, 4) for _ in range(rank)]
    return BUFFER.as_strided(
        shape, [draw.choice((0, 1, 2, 3, 5, 6, 7, 8, 12, 30, 60)) for _ in shape], draw.randint(0, 60)
    )


@pytest.mark.parametrize("work", [layout.WORK, 0], ids=["solved", "listed"])
def test_overlap_is_what_a_list_of_the_places_says(work: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "WORK", work)
    draw, seen = random.Random(0), set()
    for _ in range(2000):
        a, b = view(draw), view(draw)
        pa, pb = places(a), places(b)
        itself, shared = len(set(pa)) < len(pa), bool(set(pa) & set(pb))
        assert layout.overlaps_itself(a) == itself, (a.shape, a.stride())
        assert layout.overlap(a, b) == shared, (a.shape, a.stride(), b.shape, b.stride())
        seen.add((itself, shared))
    assert len(seen) == 4


def test_meta_tensors_overlap_as_views_of_one_storage() -> None:
    x, other = torch.empty(2, 8, 5, 5, device="meta"), torch.empty(2, 8, 5, 5, device="meta")
    assert (
        layout.overlap(x[:, :5], x[:, 4:]) and not layout.overlap(x[:, :4], x[:, 4:]) and not layout.overlap(x, other)
    )


def test_what_is_too_much_to_decide_counts_as_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "WORK", 0)
    monkeypatch.setattr(layout, "LISTED", 3)
    assert layout.overlap(BUFFER[0:40:2], BUFFER[1:41:2])


def test_halves_of_an_element_count() -> None:
    raw = torch.zeros(17, dtype=torch.uint8)
    a, b = raw[:16].view(torch.float32), raw.numpy()[1:17].view("float32")
    assert layout.overlap(a, torch.from_numpy(b))
    assert not layout.overlap(a[:1], torch.from_numpy(b)[1:])


SELF_OVERLAPS = {
    "expanded": lambda: torch.zeros(4, 1, 1).expand(2, 4, 6, 6),
    "one row for all": lambda: torch.zeros(2, 4, 1, 6).expand(2, 4, 6, 6),
    "windows that slide": lambda: torch.zeros(400).as_strided((2, 4, 6, 6), (144, 36, 4, 1)),
    "strides that meet far on": lambda: torch.zeros(400).as_strided((2, 4, 6, 6), (35, 70, 7, 1)),
}
WRITERS = {
    "conv2d": lambda x, out: convatlas.conv2d(x, torch.randn(4, 4, 3, 3, device=x.device), padding=1, out=out),
    "linear": lambda x, out: convatlas.linear(x, torch.randn(6, 6, device=x.device), out=out),
    "max_pool2d": lambda x, out: convatlas.max_pool2d(x, 3, 1, 1, out=out),
    "batch_norm": lambda x, out: convatlas.batch_norm(x, *(torch.ones(4, device=x.device),) * 2, out=out),
    "softmax": lambda x, out: convatlas.softmax(x, out=out),
    "relu": lambda x, out: convatlas.relu(x, out=out),
    "concat": lambda x, out: convatlas.concat([x[:, :2], x[:, 2:]], out=out),
}


@pytest.mark.parametrize("backend", ["numpy", "meta"])
@pytest.mark.parametrize("name", SELF_OVERLAPS)
@pytest.mark.parametrize("op", WRITERS)
def test_an_out_that_overlaps_itself_is_refused(op: str, name: str, backend: str) -> None:
    x, out = torch.randn(2, 4, 6, 6), SELF_OVERLAPS[name]()
    if backend == "meta":
        x, out = x.to("meta"), torch.empty(400, device="meta").as_strided(out.shape, out.stride())
    before = out.clone()
    with pytest.raises(
        convatlas.ShapeError, match=r"out of shape \(2, 4, 6, 6\) and strides .* several elements in one place"
    ):
        WRITERS[op](x, out)
    assert backend == "meta" or torch.equal(out, before)


@pytest.mark.parametrize("op", ["relu", "residual_add", "batch_norm"])
def test_in_place_on_an_expanded_input_is_refused(op: str) -> None:
    x = torch.randn(1, 4, 6, 6).expand(2, 4, 6, 6)
    rest = {"relu": (), "residual_add": (torch.randn(2, 4, 6, 6),), "batch_norm": (torch.zeros(4), torch.ones(4))}[op]
    with pytest.raises(convatlas.ShapeError, match="several elements in one place"):
        getattr(convatlas, op)(x, *rest, out=x)


@pytest.mark.parametrize("backend", ["numpy", "cuda", pytest.param("triton", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("op", WRITERS)
def test_disjoint_channels_of_one_buffer(op: str, form: torch.memory_format, backend: str) -> None:
    wide = torch.randn(2, 8, 6, 6).contiguous(memory_format=form)
    x, out = wide[:, :4], wide[:, 4:]
    torch.manual_seed(0)
    expected = WRITERS[op](x.clone(), torch.empty(2, 4, 6, 6))
    torch.manual_seed(0)
    with convatlas.use_backend(backend):
        WRITERS[op](x, out)
    assert torch.allclose(out, expected, rtol=1e-4, atol=1e-4)
    if op not in ("relu", "batch_norm"):
        with pytest.raises(convatlas.ShapeError, match="out shares memory with"):
            WRITERS[op](x, x)
    with pytest.raises(convatlas.ShapeError, match="out shares memory with"):
        WRITERS[op](x, wide[:, 3:7])


def test_in_place_whatever_the_stride_of_a_single_index() -> None:
    x = torch.randn(1, 4, 6, 6)
    odd = x.as_strided(x.shape, (7, *x.stride()[1:]))
    expected = torch.relu(x)
    assert torch.equal(convatlas.relu(odd, out=x), expected)

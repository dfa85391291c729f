"""The stored summaries: what a trace of today's networks gives, read back whole, and enough for nets and lecture without torch."""

import subprocess
import sys

import pytest

from convatlas.nets import registry, squeezenet
from convatlas.study import lecture, stored
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.stored import PATH, Key, dumped, load

pytestmark = pytest.mark.xdist_group("stored")  # the traces are made once


@pytest.fixture(scope="module")
def computed():
    return stored.computed()


def test_they_are_up_to_date(computed):
    """Every network and whatever the lecture asks for, traced now; about five seconds."""
    assert dumped(computed) == PATH.read_text(), "summaries.json is stale: python -m convatlas.study.stored"


def test_what_is_read_is_what_was_computed(computed):
    """Shapes, epilogues, parameters, bytes, receptive fields and sources of every op."""
    held = load()
    assert list(held) == list(computed)
    for key, summary in computed.items():
        assert held[key] == summary and held[key].totals() == summary.totals(), key
        assert [row.as_dict() for row in held[key].rows] == [row.as_dict() for row in summary.rows], key


def test_every_network_is_there_and_the_lecture_asks_for_nothing_else():
    atlas = Atlas(load())
    assert {Key(name) for name in registry.names()} <= atlas.summaries.keys()
    for topic in map(lecture.topic, lecture.names()):
        if topic.tables is not None:
            topic.tables(atlas)
        for claim in topic.claims:
            claim.compute(atlas)
    assert atlas.summaries == load()


def test_a_changed_network_is_noticed(monkeypatch):
    monkeypatch.setattr(squeezenet, "FIRES", tuple((2 * s, k) for s, k in squeezenet.FIRES))
    changed = Atlas().summary("squeezenet1_0")
    assert changed != load()[Key("squeezenet1_0")] != load()[Key("squeezenet1_1")]
    assert dumped({Key("squeezenet1_0"): changed}) != dumped({Key("squeezenet1_0"): load()[Key("squeezenet1_0")]})


@pytest.mark.parametrize("arguments", [["nets"], ["lecture", "vgg"], ["lecture", "mobilenet_v2"]], ids=" ".join)
def test_no_torch_is_imported(arguments):
    code = f"import sys; from convatlas.cli import main; main({arguments!r}); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and len(result.stdout) > 500, result.stderr

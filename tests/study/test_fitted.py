"""The time model against stored times: what is held out, the errors as they are summed, and that the page says what they are."""

import re
from pathlib import Path

import pytest

from convatlas.model.gpu import gpu
from convatlas.model.time import FITTED
from convatlas.model.uncertainty import within
from convatlas.results.store import newest
from convatlas.study.evaluation import fitted

ROOT = Path(__file__).parents[2]


def test_errors_are_summed_up():
    found = fitted.Summed.of([0.1, -0.2, 0.05, -0.01, 0.3])
    assert (found.count, found.middle, found.ninth, found.bias) == (5, 0.1, 0.3, 0.05)
    assert fitted.quantile([1.0, 3.0, 2.0], 0.5) == 2.0


def test_constants_survive_being_a_list():
    assert fitted.shaped(fitted.flat(FITTED)) == FITTED
    assert all(value > 0 for value in fitted.flat(FITTED))


@pytest.fixture(scope="module")
def few():
    """A few layers of the stored results; nothing is compiled here: one block an SM."""
    results = newest(ROOT / "benchmarks/results", "layers")["h100-80gb-hbm3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convatlas.codegen.resources.resources", lambda tasks, progress: ["not compiled"] * len(tasks))
        return fitted.timed(results, lambda entry: entry.extra["batch"] == 32 and entry.kind in ("1x1", "pooling"))


def test_held_out_layers_are_in_neither_network_that_was_fitted_on(few):
    one, layers = few
    assert one is gpu("h100-sxm") and len(layers) > 100
    for x in layers:
        assert x.held_out == (not {"resnet50", "vgg16"} & set(x.places))
    assert {x.held_out for x in layers} == {True, False}


def test_the_model_follows_the_times_even_without_occupancy(few):
    """Far from the page's errors, for one block an SM is the wrong number, but no layer is out by a power of ten."""
    one, layers = few
    errors = fitted.Summed.of([x.error(one) for x in layers if x.backend == "cuda"])
    assert errors.middle < 0.5 and errors.ninth < 4


def test_a_networks_sum_counts_a_layer_as_often_as_it_runs(few):
    one, layers = few
    sums = fitted.network_sums(layers, one)
    measured, _ = sums["resnet50", 32, "triton"]
    assert measured == pytest.approx(
        sum(x.seconds * x.places.get("resnet50", 0) for x in layers if x.backend == "triton")
    )


def test_the_page_says_the_constants_and_the_errors():
    """docs/model.md names every constant as model/time.py has it, and the errors of every kind that predictions carry."""
    page = (ROOT / "docs/model.md").read_text()
    for value in fitted.flat(FITTED):
        assert f"{value:.4g}" in page or f"{value * 1e6:.4g}" in page, value
    for backend, kind, share in re.findall(
        r"^\| (triton|cuda) \| ([^|]+?) \| \d+ \| [\d.]+ % \| ([\d.]+) % \|", page, re.M
    ):
        assert within(kind, backend) == pytest.approx(float(share) / 100, abs=6e-4), (backend, kind)

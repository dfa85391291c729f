"""explain and the pictures: configs that were considered, what fusing saves by hand, and SVG that says all it draws."""

import json
import re
import xml.etree.ElementTree as xml

import pytest

from convatlas import study
from convatlas.cli import main
from convatlas.codegen import resources as res
from convatlas.codegen.resources import Task
from convatlas.errors import ShapeError
from convatlas.kernels.common.override import noting, override
from convatlas.kernels.common.target import TARGETS
from convatlas.study import explaining
from convatlas.study.drawing.explained import explained
from convatlas.study.drawing.layer import layer as drawn
from convatlas.study.drawing.plain import drawn as plain
from convatlas.study.drawing.svg import STYLE, Svg
from convatlas.study.written import EXAMPLES, layer

CONV = "conv 32x256x14x14 256 3x3 p1 bias relu"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def kernels_compiled(monkeypatch):
    """Every launch takes 128 registers and 64 KB, whoever asks."""
    monkeypatch.setattr(
        "convatlas.codegen.resources.resources",
        lambda tasks, progress=None: [[res.Resources(128, 65536, 0)] * 4 for _ in tasks],
    )


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("text", [CONV, "conv 1x512x7x7 512 3x3 p1", "conv 32x64x56x56 256", "linear 64x2048 1000"])
def test_what_is_considered_holds_what_is_chosen(text, backend):
    found = study.explain(text, backend=backend)
    (chosen,) = (one for one in found.candidates if one.chosen)
    assert chosen.mapped is found.layer and 1 < len(found.candidates) <= found.considered
    assert [one.mapped.seconds for one in found.candidates] == sorted(one.mapped.seconds for one in found.candidates)
    assert len({str(one.config) for one in found.candidates}) == len(found.candidates)
    said = " ".join(explaining.why(found))
    assert f"compared {found.considered} configs" in said and chosen.name in said and "predicted" in said
    assert found.other.backend != backend and found.other.seconds > 0


def test_an_override_runs_what_was_considered():
    call = layer(CONV).call
    task = Task(call, "float16", TARGETS["sm_90"], "cuda")
    for _, config in explaining.configs(task):
        with override(config), noting() as noted:
            (launch, *_) = task.launches
        assert launch.template[2:4] == (str(config.BM), str(config.BN)) and not noted


def test_a_layer_with_one_config():
    found = study.explain("relu 32x64x56x56")
    assert not found.candidates and "nothing was compared" in explaining.why(found)[0]
    assert "Nothing is fused" in explaining.fused(found)[0]


def test_what_fusing_saves_by_hand():
    """Two 3x3 convolutions of ResNet-18's first block: 64 channels of 56 x 56, two bytes each, written and read once."""
    found = study.explain("resnet18", "layer1.0.conv1", batch=2)
    out = 2 * 64 * 56 * 56 * 2
    done = [one.bytes for one in found.fusions if one.done]
    assert done == [2 * out, 2 * out]  # bias and relu
    after, before = (one for one in found.fusions if not one.done)
    assert after.what.startswith("layer1.0.conv2 (conv2d), which reads") and after.bytes == 2 * out
    # The pool's output is the residual of the block as well, and so must be written.
    assert before.what.startswith("maxpool") and "1 other" in before.what and before.bytes == out


def texts(picture: Svg) -> list:
    root = xml.fromstring(picture.document)
    assert float(root.get("width")) == picture.width
    return root.findall(f".//{SVG}text")


@pytest.mark.parametrize("text", [*EXAMPLES.values(), "conv 1x3x224x224 64 7x7 s2 p3", "conv 8x96x28x28 96 3x3 p1 g96"])
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_every_kind_of_layer_is_drawn(text, backend):
    found = study.map(text, backend=backend)
    picture = explained(study.explain(text, backend=backend, compile=False))
    drawings = [*texts(picture), *texts(drawn(found, found.layers[0]))]
    for one in drawings:
        at = float(one.get("x"))
        size = {"title": 9.6, "small": 5.6}.get(one.get("class"), 6.4) * len(one.text)
        left = {"middle": at - size / 2, "end": at - size}.get(one.get("text-anchor"), at)
        assert left > -20 and left + size < picture.width + 20, one.text
    picture = drawn(found, found.layers[0])
    said = " ".join(sentence for _, sentences in picture.sections for sentence in sentences)
    assert f"Predicted: {found.seconds * 1e6:.1f} us" in said and all(
        s.endswith(".") for _, x in picture.sections for s in x
    )
    assert "http" not in picture.document.replace("http://www.w3.org/2000/svg", "")
    assert xml.fromstring(picture.markup).get("aria-label").startswith(picture.title)


def test_waves_are_drawn_by_hand():
    """392 blocks of 64 x 64; 3 on each of 132 SMs: one wave with 4 places idle."""
    found = study.map("conv 32x256x14x14 256 3x3 p1", backend="cuda")
    (one,) = found.layers
    assert (one.main.work.grid, one.main.occupancy.blocks) == (392, 3)
    picture = drawn(found, one)
    assert picture.document.count('class="solid"') == 392
    assert "wave 1 of 1: 392 blocks" in picture.document
    # 64 + 64 rows of 64 numbers of two bytes: 16 KB, 8 vectors of 16 bytes for each of 128 threads.
    said = " ".join(sentence for _, sentences in picture.sections for sentence in sentences)
    assert "Each of the 36 steps brings 16 KB of A and B to shared memory: 8 vectors of 16 bytes a thread" in said


def test_a_layer_that_the_other_backend_refuses(monkeypatch):
    def refuse(*arguments, **options):
        raise ShapeError("too many packs")

    whole = explaining.map
    monkeypatch.setattr(explaining, "map", lambda *a, **k: refuse() if k["backend"] == "cuda" else whole(*a, **k))
    found = study.explain(CONV, backend="triton", compile=False)
    assert found.other is None and found.as_dict()["other_backend"] is None and explained(found).document


def test_colours_follow_the_readers_mode():
    assert "prefers-color-scheme: dark" in STYLE and STYLE in Svg("x").document and STYLE not in Svg("x").markup
    light, dark = (re.findall(r"--([\w-]+): #", block.split("}")[0]) for block in STYLE.split(".atlas {")[1:3])
    assert light == dark and "paper" in light


def test_titles_are_escaped():
    assert "a &lt; b" in Svg("a < b").document


def test_the_command_prints_what_python_returns_and_draws_it(tmp_path, capsys):
    file = tmp_path / "x.svg"
    assert main(["explain", CONV, "--svg", str(file)]) == 0
    text, found = capsys.readouterr().out, study.explain(CONV)
    assert f"{found.layer.seconds * 1e6:.1f} us  <- chosen" in text and "predicted, not measured" in text
    assert "A [6272 x 2304]" in text and "#" in text and file.read_text() == explained(found).document
    heads = {head for head, _ in explained(found).sections}
    assert heads - {""} - {"What fusing saves"} <= set(plain(found))
    assert main(["explain", CONV, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["candidates"][0]["predicted_seconds"] == found.candidates[0].mapped.seconds
    assert main(["explain", "resnet18", "--no-compile"]) == 2
    assert "lists them" in capsys.readouterr().err


def test_map_draws_one_layer(tmp_path, capsys):
    file = tmp_path / "x.svg"
    assert main(["map", "resnet18", "--layer", "layer1.0.conv1", "--svg", str(file)]) == 0
    assert "layer1.0.conv1: 32x64x56x56" in file.read_text() and "layer1.0.conv2" not in capsys.readouterr().out
    assert main(["map", "resnet18", "--svg", str(file)]) == 2
    assert "--layer PATH" in capsys.readouterr().err
    assert main(["map", CONV, "--gpu", "h200,b200", "--svg", str(file)]) == 2
    assert main(["map", CONV, "--svg", str(file / "x.svg")]) == 2

"""The lecture's text and pictures, in parts; tests/cli/test_lecture_command.py writes the whole."""

import xml.etree.ElementTree as xml

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from convatlas.study import lecture, stored
from convatlas.study.lecture import pictures
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import Table
from convatlas.study.lecture.document import anchor, escaped, filled, markdown, paragraph, section
from convatlas.study.lecture.drawing import new_figure, place_labels, plain, save


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas(stored.load())


def test_a_table():
    table = Table("What it is.", ("a", "b"), (("x|y", "2*3*4"),))
    assert markdown(table) == "What it is.\n\n| a | b |\n| --- | ---: |\n| x\\|y | 2\\*3\\*4 |"


def test_text():
    assert escaped("1/(R*S)") == "1/(R\\*S)"
    assert anchor("MobileNetV1 (2017): depthwise") == "mobilenetv1-2017-depthwise"
    text = filled("one\ntwo\n\n    a = b\n\n" + "word " * 60)
    assert text.startswith("one two\n\n    a = b\n\nword") and max(map(len, text.splitlines())) <= 120


def test_a_section_has_text_diagram_tables_and_claims(atlas):
    topic = lecture.topic("alexnet")
    text = section(topic, [(claim, claim.compute(atlas)) for claim in topic.claims], atlas)
    assert text.startswith("## AlexNet (2012)\n\nFive convolutions") and "```mermaid\nflowchart LR\n" in text
    assert "| conv2d 5x5 g2 | 256x27x27 | 256\\*(48\\*5\\*5 + 1) | 307,456 | 223,948,800 |" in text
    assert "**One must be able to count its parameters**\n\n✓ **holds**" in text
    assert "- first CNN to win ImageNet: needs the results" in text


def test_a_claim_of_somebody_else_names_its_source(atlas):
    claim = next(c for c in lecture.topic("vgg").claims if "24M" in c.says)
    text = paragraph(claim, claim.compute(atlas))
    assert "(CS231n course notes" in text and "✗ **does not hold**" in text and "| 15,237,608 | 24,000,000 |" in text


@pytest.mark.parametrize("picture", pictures.PICTURES, ids=lambda p: p.name)
def test_a_picture_is_written_whole_and_the_same_each_time(atlas, tmp_path, picture):
    svg, png = save(picture.draw(atlas), tmp_path / "a", picture.name)
    again, _ = save(picture.draw(atlas), tmp_path / "b", picture.name)
    assert svg.read_bytes() == again.read_bytes() and xml.parse(svg).getroot().tag.endswith("svg")
    assert Image.open(png).width == 1350 and len(list((tmp_path / "a").iterdir())) == 2
    (axes,) = picture.draw(atlas).figure.axes
    assert axes.get_xlabel() and (axes.get_ylabel() or picture.name == "work") and axes.get_legend() is not None


def test_labels_do_not_touch(atlas):
    figure, _ = pictures.parameters_macs(atlas)
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert set(boxes) == set(pictures.chosen(atlas))
    names = list(boxes)
    assert not [(a, b) for i, a in enumerate(names) for b in names[:i] if boxes[a].overlaps(boxes[b])]


def test_a_label_is_nearest_to_its_own_point():
    _, axes = new_figure(6, 4)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    place_labels(axes, [(50, 50, "left one"), (51.5, 50, "right one")])
    left, right = (text.xyann for text in axes.texts)
    assert left[0] < 0 < right[0] and [text.get_text() for text in axes.texts] == ["left one", "right one"]


def test_ticks():
    assert [plain(x, "") for x in (1e9, 1e7, 150_000, 0)] == ["1G", "10M", "150k", "0"]
    assert [plain(x, "B") for x in (5e6, 2.5e6, 0)] == ["5 MB", "2.5 MB", "0 B"]

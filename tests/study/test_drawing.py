"""Pictures as files: text that stays text, a title and a description, few bytes, names that touch nothing, colours told apart."""

import xml.etree.ElementTree as xml
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb
from matplotlib.text import Annotation, Text

from convatlas.study.lecture import pictures
from convatlas.study.lecture.drawing import Drawing, new_figure, new_panels, point_out, save, svg
from convatlas.study.performance import pictures as page_pictures

DOCS = Path(__file__).resolve().parents[2] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
LARGEST = 60_000  # bytes


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.svg")), ids=lambda path: path.stem)
def test_a_committed_picture_is_small_and_says_what_it_shows(path):
    root = xml.parse(path).getroot()
    title, description = root.findtext(f"{SVG}title"), root.findtext(f"{SVG}desc")
    assert path.stat().st_size < LARGEST and root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    assert len(title) > 20 and len(description) > 100
    assert len(list(root.iter(f"{SVG}text"))) >= 8 and "DejaVuSans-" not in path.read_text(), "text drawn as paths"


def test_an_svg_keeps_what_matplotlib_drew(tmp_path):
    """Every mark, line, colour and word of a picture with the things that ours hold; each style is written once."""
    figure, axes = new_figure(4, 3)
    axes.scatter([1, 2, 3], [1, 2, 3], s=30, color="#D55E00", marker="^", alpha=0.5, label="marks & <more>")
    axes.plot([1, 3], [3, 1], color="#0072B2")
    axes.barh([1, 2], [1, 2], hatch="//")
    axes.set_ylabel("up")
    axes.legend()
    (path,) = save(Drawing(figure, "A <title>", "Words & numbers"), tmp_path, "it", ("svg",))
    root = xml.parse(path).getroot()
    assert [root[0].text, root[1].text] == ["A <title>", "Words & numbers"]
    words = {text.text for text in root.iter(f"{SVG}text")}
    assert {"marks & <more>", "up"} <= words
    rules = dict(line[1:-1].split("{") for line in root.findtext(f".//{SVG}style").splitlines()[1:])
    assert len(set(rules.values())) == len(rules)
    assert {element.get("class") for element in root.iter()} - {None} == rules.keys()
    ids = {element.get("id") for element in root.iter()} - {None}
    uses = [use.get("{http://www.w3.org/1999/xlink}href")[1:] for use in root.iter(f"{SVG}use")]
    assert set(uses) <= ids
    marks = [use for use in root.iter(f"{SVG}use") if "fill-opacity: 0.5" in rules[use.get("class")]]
    assert len(marks) == 4 and all("#d55e00" in rules[use.get("class")] for use in marks)  # three and the legend's
    rising = sorted((float(use.get("x")), -float(use.get("y"))) for use in marks[:3])
    assert rising == sorted(rising, key=lambda place: place[1]) and len(set(rising)) == 3
    assert len(list(root.iter(f"{SVG}pattern"))) == 1


def test_the_same_picture_is_the_same_file():
    def drawn() -> bytes:
        figure, axes = new_figure(3, 2)
        axes.scatter(range(9), range(9))
        return svg(Drawing(figure, "t", "d"))

    assert drawn() == drawn()


def test_names_in_a_crowd_touch_no_point_and_no_name():
    figure, (_, axes) = new_panels(9, 4, 2)
    crowd = np.random.default_rng(5).normal(50, 12, (120, 2))
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.text(10, 10, "there already")
    point_out(axes, [(x, y, f"the point {i} by name") for i, (x, y) in enumerate(crowd[:6])], crowd)
    names = [text for text in axes.texts if isinstance(text, Annotation)]
    assert len(names) == 6
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert not any(box.contains(*place) for box in boxes[1:] for place in axes.transData.transform(crowd))
    edge = axes.get_window_extent()
    assert all(edge.x0 < box.x0 and box.x1 < edge.x1 for box in boxes[1:])
    figure.draw_without_rendering()


# Machado, Oliveira, Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency": linear RGB as a
# reader without one kind of cone sees it.
VISION = {
    "all cones": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def lab(colour: str, vision: str) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour as a reader sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(XYZ) @ np.clip(np.array(VISION[vision]) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(
    "styles",
    [
        [style[1:] for style in pictures.FAMILIES.values()],
        list(pictures.KIND_STYLES.values()),
        [(colour, pictures.MARKERS[name]) for name, colour in pictures.GROWTH.items()],
        list(page_pictures.FAMILY_STYLES.values()),
        list(page_pictures.BATCH_STYLES),
    ],
    ids=["families", "kinds", "growth", "page families", "batches"],
)
def test_no_two_things_have_one_colour_or_one_mark(styles, vision):
    colours, marks = zip(*styles)
    assert len(set(colours)) == len(colours) and (len(set(marks)) == len(marks) or "//" in marks)
    distances = {(a, b): float(np.linalg.norm(lab(a, vision) - lab(b, vision))) for a, b in combinations(colours, 2)}
    assert min(distances.values()) > 10, min(distances.items(), key=lambda pair: pair[1])

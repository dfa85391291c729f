"""docs/performance.md and the README's table: what the newest results give, with numbers that were worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import shutil
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from synthetic_results import entries, folder

from convatlas.bench.collect import collect, main, store
from convatlas.errors import InputError
from convatlas.ops.automatic import preferred
from convatlas.results.kinds import sizes_of, spec_of
from convatlas.results.standings import Race
from convatlas.results.store import Entry, load
from convatlas.specs import Conv2dSpec
from convatlas.study.performance import reports, texts
from convatlas.study.performance.data import FAMILIES, Report
from convatlas.study.performance.document import NONE, block, headline, layers_csv, network_page, page
from convatlas.study.performance.pictures import DRAWERS, draw, roofline

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- performance:begin -->", "<!-- performance:end -->"


def exact(what, epilogue="bias+relu", **how):
    """Entries without noise; medians in us by contestant. The case's FLOPs and bytes are 4e9 and 2e7, its bound 10 us."""
    names = ("triton", "cuda", "cudnn", "cudnn_fused")
    medians = {name: how.pop(name) * 1e-6 for name in names if name in how}
    return entries(what, medians, noise=0, epilogue=epilogue, bound_seconds=1e-5, **how)


# In this order: a loss to the fused form; a win that cuda would make larger; a depthwise layer, which auto gives to cuda, level; a
# pooling that only triton ran and auto would give to cuda; another batch size; another precision.
LAYERS = [
    *exact("conv2d 32x64x56x56 -> 64x56x56, 3x3", triton=20, cuda=30, cudnn=40, cudnn_fused=10, places={"resnet50": 3}),
    *exact("conv2d 32x64x28x28 -> 64x28x28, 3x3", triton=20, cuda=10, cudnn=40, cudnn_fused=40),
    *exact("conv2d 32x96x28x28 -> 96x28x28, 3x3 groups96", "bias+relu6", triton=10, cuda=20, cudnn=20.2),
    *exact("max_pool2d 32x64x112x112 -> 64x56x56, max 3x3 stride2", "", triton=5, cudnn=9, absent={"cuda": "no CuPy"}),
    *exact("linear 1x2048 -> 1x1000", "bias", triton=8, cuda=4, cudnn=6, batch=1),
    *exact("conv2d 32x64x56x56 -> 64x56x56, 3x3", dtype="bfloat16", triton=30, cudnn=40),
    *exact("conv2d 4x64x9x9 -> 64x9x9, 3x3", batch=4, triton=2, cudnn=4, suite="published", places={"DeepBench": 1}),
    *exact("conv2d 8x64x9x9 -> 64x9x9, 3x3", batch=8, triton=2, cudnn=9, suite="published", places={"DeepBench": 1}),
]
NETS = entries(
    "net resnet50 32x3x224x224", {"ours_graph": 2e-3, "ours_eager": 4e-3, "cudnn_graph": 3e-3, "compile": 2.5e-3}, noise=0,
    epilogue="", suite="networks", cache="warm", form="graph+eager",
)  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder_ = tmp_path_factory.mktemp("page")
    return Report("test-9000", load(store(collect(folder(folder_ / "out", LAYERS, NETS)), folder_)))


@pytest.fixture(scope="module")
def text(report):
    """The page, and the page of the one network."""
    return page([report]) + network_page(report, "resnet50")


@pytest.mark.parametrize(
    "row",
    [
        # over cudnn: (2 x 2) ** 0.5 by auto; best (2 x 4) ** 0.5. Over the fused form: (0.5 x 2) ** 0.5, best (0.5 x 4) ** 0.5.
        "| 3x3 dense | 32 | 2 | 2.00 | 2.83 | 2 / 0 / 0 / 0 | 1.00 | 1.41 | 1 / 0 / 1 / 0 | 1.00 | 1.41 | 1 / 0 / 1 / 0 |",
        # 20.2 / 20 is the same by a threshold of 3 %.
        "| depthwise | 32 | 1 | 1.01 | 2.02 | 0 / 1 / 0 / 0 |  |  |  | 1.01 | 2.02 | 0 / 1 / 0 / 0 |",
        # Without a time of the backend that auto takes there is no speed-up by auto: 9 / 5 is the best's alone.
        "| pooling | 32 | 1 |  | 1.80 |  |  |  |  |  | 1.80 |  |",
        "| linear | 1 | 1 | 1.50 | 1.50 | 1 / 0 / 0 / 0 |  |  |  | 1.50 | 1.50 | 1 / 0 / 0 / 0 |",
        # (2 x 2 x 1.01) ** (1/3) by auto; with pooling, best (2 x 4 x 2.02 x 1.8) ** (1/4).
        "| **all** | 32 | 4 | 1.59 | 2.32 | 2 / 1 / 0 / 0 | 1.00 | 1.41 | 1 / 0 / 1 / 0 | 1.00 | 1.64 | 1 / 1 / 1 / 0 |",
        "| 3x3 dense | 32 | 1 | 1.33 | 1.33 | 1 / 0 / 0 / 0 |  |  |  | 1.33 | 1.33 | 1 / 0 / 0 / 0 |",
        # (4/2 x 9/2) ** (1/2)
        "| DeepBench | 3x3 dense | 4 to 8 | 2 | 3.00 | 3.00 | 2 / 0 / 0 / 0 |  |  |  | 3.00 | 3.00 | 2 / 0 / 0 / 0 |",
        # 3 / 2, 2.5 / 2, 32 images in 2 ms.
        "| resnet50 | float16 | 32 | 2 | 4 | 3 | 2.5 | 1.50 | 1.25 | 16,000 |",
        # The one loss: 20 us against 10, the bound 10 us.
        "| 64x56x56 -> 64x56x56, 3x3 bias+relu | float16 | 32 | 20.0 | triton | 10.0 | cudnn_fused | 2.00 | 2.00 to 2.00 | 50 % |",
        # In its net three times; ours by auto is bold.
        "| 64x56x56 -> 64x56x56, 3x3 bias+relu | 3 | **20.0** | 30.0 | 40.0 | 10.0 | 10.0 | bandwidth | 50 % | 0.50 | slower |",
        "| linear 2048 -> 1000 bias | 1 | 8.00 | **4.00** | 6.00 |  | 10.0 | bandwidth | 250 % | 1.50 | faster |",
    ],
)
def test_rows_by_hand(text, row):
    assert text.count(row) == 1


def test_the_csv_has_every_layer(report):
    """By hand: the loss of the first row, and the one layer that `auto` has no time for."""
    rows = list(csv.DictReader(io.StringIO(layers_csv(report))))
    assert len(rows) == 8 and {row["suite"] for row in rows} == {"layers", "published"}
    said = {"kind": "3x3 dense", "places": "resnet50:3", "triton_us": "20", "auto": "triton", "over_quicker": "0.5"}
    assert rows[0] | said == rows[0] and rows[0]["verdict"] == "slower" and rows[0]["share_of_bound"] == "0.5"
    assert (rows[3]["auto"], rows[3]["cuda_us"], rows[3]["verdict"]) == ("", "", "")


def test_what_is_said_about_the_measurement(text):
    for said in (
        "## NVIDIA Test 9000", "measured 2026-01-02 at commit 0123456789ab, driver 999.1", "torch 2.11.0, triton 3.6.0",
        "SM 1980 MHz, memory 2619 MHz, 41 degrees Celsius, 310 W; held down by: power cap (100 % of entries)",
        "copy 2.000 TB/s, matmul float16 800.0 TFLOP/s", "an empty launch in a graph 2.00 us", "2659 passed, 0 failed, 3 skipped",
        "samples of each contestant: 15", "cuDNN's fused form ran on 2 of 6 layers", "in no mean: 1 layers, such as max_pool2d",
        "Reasons: no CuPy (1)", "float16: 1 of 5 layers are slower",
        "A page a network: [resnet50](performance/test-9000-resnet50.md)",
        "(../benchmarks/results/test-9000/2026-01-02-0123456789ab.json)",
    ):  # fmt: skip
        assert said in text
    assert "bfloat16: " not in text.split("### Where we lose")[1].split("### Every layer")[0]


def test_the_readmes_table_by_hand(report):
    rows = headline([report]).splitlines()
    assert "| layers | batch 1 | f / s / sl / u | batch 32 | f / s / sl / u |" in rows
    assert "| 3x3 dense |  |  | 1.00 | 1 / 0 / 1 / 0 |" in rows and "| linear | 1.50 | 1 / 0 / 0 / 0 |  |  |" in rows
    # (0.5 x 2 x 1.01) ** (1/3); where cuDNN fuses (0.5 x 2) ** (1/2).
    assert "| **all** | 1.50 | 1 / 0 / 0 / 0 | 1.00 | 1 / 1 / 1 / 0 |" in rows
    assert "| of them, where cuDNN fuses |  |  | 1.00 | 1 / 0 / 1 / 0 |" in rows
    assert rows[0].startswith("NVIDIA Test 9000, 2026-01-02, commit 0123456789ab, float16: ")


@pytest.mark.parametrize(("dtype", "ceilings", "drawn"), [("float16", None, 1), ("bfloat16", 1, 0)])
def test_no_picture_is_shown_that_is_not_drawn(tmp_path, dtype, ceilings, drawn):
    """Without ceilings there is no roofline, without half precision no picture at all."""
    document = collect(folder(tmp_path / "out", exact("linear 1x8 -> 1x8", triton=8, cuda=4, cudnn=6, dtype=dtype)))
    found = Report("it", load(store({**document, "ceilings": document["ceilings"] if ceilings else None}, tmp_path)))
    paths = draw(found, tmp_path)
    assert [path.name for path in paths] == ["it-speedup.svg"][:drawn]
    assert page([found]).count(".svg)") == drawn


def test_layers_and_networks_may_be_of_two_measurements(tmp_path):
    """A later measurement of networks alone leaves the older one of layers on the page, and the page says so."""
    results = tmp_path / "benchmarks" / "results"
    older = store(collect(folder(tmp_path / "a", LAYERS, NETS)), results)
    document = {**collect(folder(tmp_path / "b", [], NETS)), "date": "2030-01-01T00:00:00", "commit": "b" * 12}
    later = store(document, results)
    (found,) = reports(tmp_path)
    assert (found.results.path, found.whole.path) == (older, later) and found.layers and found.networks
    assert f"another measurement than those of the layers: 2030-01-01, commit {'b' * 12}" in page([found])
    later.unlink()
    (found,) = reports(tmp_path)
    assert found.whole is None and found.networks and "another measurement" not in page([found])


def test_without_a_result_that_is_said_plainly():
    assert headline([]) == NONE and NONE in page([]) and "| family |" not in page([])


def test_the_page_and_the_readme_are_what_the_newest_results_give():
    """Mended by `make performance`."""
    found = reports(ROOT)
    for path, expected in texts(ROOT, found).items():
        assert path.read_text() == expected, f"{path.name} is stale: make performance"
    for report in found:
        for name in report.pictures:
            path = ROOT / "docs" / "performance" / f"{report.slug}-{name}.svg"
            drawing = DRAWERS[name](report, report.drawn)
            said = [
                xml.parse(path).getroot().findtext(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc")
            ]
            assert said == [drawing.title, drawing.description], f"{path.name} is stale: make performance"
    drawn = {f"{report.slug}-{name}" for report in found for name in report.pictures}
    assert {path.stem for path in (ROOT / "docs" / "performance").glob("*.svg")} == drawn


def test_the_roofline_names_what_is_farthest_below_it_in_each_batch(report):
    """By hand: of 32, 20 us where copy 10 us and launch 2 us allow 12, which is 1.7; the level depthwise layer the same."""
    drawing = roofline(report, report.drawn)
    assert [axes.get_title() for axes in drawing.figure.axes] == ["batch 1", "batch 32"]
    assert (
        "batch 1, 1 layers, farthest linear 2048 -> 1000: 0.3x; batch 32, 3 layers, farthest 64x56x56 -> 64x56x56, 3x3: 1.7x"
        in (drawing.description)
    )
    assert drawing.title.endswith("NVIDIA Test 9000, float16, 2026-01-02, commit 0123456789ab")


@pytest.fixture
def root(tmp_path):
    """A repository with one result."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    assert main([str(folder(tmp_path / "out", LAYERS, NETS)), "--root", str(tmp_path)]) == 0
    return tmp_path


def test_storing_writes_the_page_the_readme_and_the_pictures(root, capsys):
    files = sorted((root / "docs" / "performance").iterdir())
    pictures = [path for path in files if path.suffix == ".svg"]
    names = ["test-9000-layers.csv", "test-9000-resnet50.md", "test-9000-roofline.svg", "test-9000-speedup.svg"]
    assert [path.name for path in files] == names
    assert (
        "| linear | 1.50 |" in (root / "README.md").read_text() and "2.83" in (root / "docs/performance.md").read_text()
    )
    outside = [(root / "README.md").read_text().split(BEGIN)[0], (root / "README.md").read_text().split(END)[1]]
    assert outside == [(ROOT / "README.md").read_text().split(BEGIN)[0], (ROOT / "README.md").read_text().split(END)[1]]
    before = {path: path.read_bytes() for path in pictures}
    assert main(["--root", str(root)]) == 0
    assert {path: path.read_bytes() for path in pictures} == before
    assert "performance.md" not in capsys.readouterr().out.split("speedup.svg")[-1]


def test_a_result_that_is_withdrawn_leaves_nothing_behind(root):
    shutil.rmtree(root / "benchmarks" / "results")
    assert main(["--root", str(root)]) == 0
    assert not list((root / "docs" / "performance").iterdir())
    assert NONE in (root / "README.md").read_text() and NONE in (root / "docs/performance.md").read_text()


def test_a_stale_page_is_noticed(root):
    """What the test of the repository would see."""
    result = next((root / "benchmarks" / "results").rglob("*.json"))
    result.write_text(result.read_text().replace(",2e-05", ",1.9e-05"))
    assert any(path.read_text() != expected for path, expected in texts(root, reports(root)).items())


def test_a_readme_without_markers_is_refused():
    with pytest.raises(InputError, match=r"README.md has no <!-- performance:begin --> ... <!-- performance:end -->"):
        block("# convatlas\n", "x")


X = (8, 32, 14, 14)
SPECS = [
    Conv2dSpec.of(X, (64, 32, 3, 3), padding=1),
    Conv2dSpec.of(X, (64, 32, 3, 3), stride=2),
    Conv2dSpec.of(X, (64, 32, 3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    Conv2dSpec.of(X, (64, 8, 3, 3), padding=((0, 1), (1, 0)), stride=2, groups=4, dilation=2),
    Conv2dSpec.of(X, (32, 1, 5, 5), padding=2, groups=32),
    Conv2dSpec.of(X, (16, 32, 1, 1), padding=1),
    Conv2dSpec.of(X, (16, 32, 1, 1), stride=2),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_spec_is_stored_as_data(spec):
    assert spec_of("conv2d", json.loads(json.dumps(sizes_of(spec)))) == spec


@pytest.mark.parametrize("change", [{"K": 0}, {"stride": [0, 1]}, {"groups": 0}, {"N": None}, {"L": 1}, {"H": 10**400}])
def test_other_data_is_no_spec(change):
    with pytest.raises(InputError, match=r"conv2d: sizes .*, expected the fields of a Conv2dSpec that has an output"):
        spec_of("conv2d", {**sizes_of(SPECS[0]), **change})


@pytest.mark.parametrize(
    ("what", "family", "backend"),
    [
        ("conv2d 1x64x8x8 -> 64x8x8, 3x3", "3x3 dense", "triton"),
        ("conv2d 1x64x8x8 -> 64x8x8, 5x5", "other dense", "triton"),
        ("conv2d 1x64x8x8 -> 64x8x8, 1x1", "1x1", "triton"),
        ("conv2d 1x64x8x8 -> 64x8x8, 3x3 groups64", "depthwise", "cuda"),
        ("conv2d 1x64x8x8 -> 64x8x8, 3x3 groups4", "grouped", "triton"),
        ("conv2d 1x3x224x224 -> 64x112x112, 7x7 stride2", "stem", "triton"),
        ("linear 8x2048 -> 8x1000", "linear", "cuda"),
        ("linear 9x1024 -> 9x1000", "linear", "triton"),
        ("conv2d 32x3x224x224 -> 64x112x112, 7x7 stride2", "stem", "cuda"),
        ("max_pool2d 1x64x8x8 -> 64x4x4, max 2x2 stride2", "pooling", "cuda"),
        ("adaptive_avg_pool2d 1x64x8x8 -> 64x1x1, adaptive average", "pooling", "triton"),
        ("adaptive_avg_pool2d 32x2048x7x7 -> 2048x1x1, adaptive average", "pooling", "cuda"),
        ("residual_add 1x64x8x8", "residual add", "triton"),
        ("softmax 1x1000", "other", "triton"),
    ],
)
def test_families_and_the_choice_of_auto(what, family, backend):
    race = Race(_entries(*exact(what, triton=1, cuda=2)))
    assert race.kind == family in FAMILIES
    assert preferred(race.call) == backend == race.auto.contestant and race.best.contestant == "triton"


def _entries(*items):
    return {
        name: Entry("layers", item["group"], name, tuple(item["stats"]["data"]), item["extra_info"], "GPU")
        for item in items
        for name in [item["extra_info"]["contestant"]]
    }

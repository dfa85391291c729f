"""report: each number on the page is `map --json`'s, nothing is fetched, and a real browser lays it out."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from convatlas import study
from convatlas.cli import main
from convatlas.codegen import resources as res
from convatlas.study.mapping import summary_of
from convatlas.study.report.page import COLUMNS, key, page

NET = "resnet18"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class _Read(HTMLParser):
    """All start tags with their attributes; of the layer table the exact numbers, a dict a row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if "data-row" in found:
            self.rows.append({})
        if "data-k" in found and "data-v" in found:
            self.rows[-1][found["data-k"]] = float(found["data-v"])


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "convatlas.codegen.resources.resources",
            lambda tasks, progress=None: [[res.Resources(128, 65536, 0)] * 3 for _ in tasks],
        )
        return study.map(NET)


@pytest.fixture(scope="module")
def text(found):
    return page(found, summary_of(NET, None, 32, "float16"))


def test_each_number_is_that_of_map_json(found, text):
    document = json.loads(json.dumps(found.as_dict()))
    read = _Read(text)
    assert len(read.rows) == len(document["layers"]) == 23
    numbers = {column.key for column in COLUMNS if not column.text} - {"measured_seconds"}
    for shown, row in zip(read.rows, document["layers"]):
        assert shown == {name: row[name] for name in numbers if row[name] is not None}
    total = document["total"]
    totals = {a["data-total"]: float(a["data-v"]) for _, a in read.tags if "data-total" in a}
    assert totals == {name: total[name] for name in totals} and "predicted_images_per_second" in totals
    kinds = {a["data-kind"]: float(a["data-v"]) for _, a in read.tags if "data-kind" in a}
    assert kinds == total["predicted_seconds_by_kind"]


def test_the_page_says_that_it_predicts_and_fetches_nothing(text):
    assert "predicted by a model, not measured" in text
    read = _Read(text)
    assert not [
        a for tag, a in read.tags if a.get("src") or tag in ("link", "iframe", "img") or a.get("href", "#")[0] != "#"
    ]
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttp|https?://(?!www\.w3\.org/)", text)
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert {a["href"][1:] for _, a in read.tags if "href" in a} <= set(ids)


def test_measured_times_stand_beside_predicted_ones(found):
    one = found.layers[0]
    text = page(
        found, summary_of(NET, None, 32, "float16"), None, {key(one.layer, one.backend): 123.4e-6}, "a real GPU"
    )
    assert "123.4" in text and "of a real GPU" in text and "measured, where there is a time (1 of 23 layers)" in text
    assert [row.get("measured_seconds") for row in _Read(text).rows][:2] == [123.4e-6, None]


def test_names_of_users_are_escaped(found):
    from dataclasses import replace

    text = page(replace(found, name="<script>alert(1)</script>"), summary_of(NET, None, 32, "float16"))
    assert "<script>alert" not in text


def test_the_command(tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["report", "squeezenet1_1", "--out", str(out), "--no-compile", "--gpu", "a100-80"]) == 0
    assert "times are predicted" in capsys.readouterr().out
    assert "no time measured on the A100" in out.read_text() and "Without registers and occupancy" in out.read_text()
    for arguments, said in (
        (["resnet81", "--out", str(out)], "nearest: resnet18"),
        ([NET, "--out", str(tmp_path)], "is a folder"),
        ([NET, "--out", str(out), "--measured", str(out)], "no JSON"),
        (["relu 1x8x4x4", "--out", str(out)], "expected a network"),
    ):
        assert main(["report", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_times_of_another_gpu_are_refused(capsys, tmp_path):
    from pathlib import Path

    results = next(Path(__file__).parents[2].glob("benchmarks/results/h100*/*.json"))
    asked = ["report", NET, "--out", str(tmp_path / "p.html"), "--no-compile", "--measured", str(results)]
    assert main([*asked, "--gpu", "a100-80"]) == 2
    assert "times of NVIDIA H100" in capsys.readouterr().err
    assert main(asked) == 0
    assert 'data-k="measured_seconds" data-v=' in (tmp_path / "p.html").read_text()


def test_a_profile_gives_times_of_its_own_setting_only(found, tmp_path, capsys):
    one = found.layers[0]
    row = {
        "op": one.layer.op,
        "spec": str(one.layer.spec),
        "epilogue": str(one.layer.epilogue),
        "seconds": {"ours": 1e-4},
    }
    about = {"gpu": "NVIDIA H100 80GB HBM3", "timer": "CUDA events", "backend": "auto", "dtype": "float16", "batch": 32}
    profile, out = tmp_path / "profile.json", tmp_path / "page.html"
    asked = ["report", NET, "--out", str(out), "--no-compile", "--measured", str(profile)]

    def refused(document, *more):
        profile.write_text(json.dumps(document))
        assert main([*asked, *more]) == 2
        return capsys.readouterr().err

    whole = {**about, "layers": [row], "network": {}}
    assert "float16 at batch 32 by auto, expected float16 at batch 1" in refused(whole, "--batch", "1")
    assert "invented" in refused({**whole, "timer": "rehearsal"})
    assert "times of NVIDIA A100" in refused({**whole, "gpu": "NVIDIA A100-SXM4-80GB"})
    assert "no profile that" in refused({**whole, "layers": [{"op": "conv2d"}]})
    profile.write_text(json.dumps(whole))
    assert main(asked) == 0
    times = [row.get("measured_seconds") for row in _Read(out.read_text()).rows]
    assert times.count(1e-4) == 1 and times[0] == 1e-4


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)")
def test_a_browser_lays_it_out_sorts_and_filters(text, tmp_path):
    """360 and 1440 px: nothing but what scrolls by itself is wider than the window; sorting and filtering work."""
    probe = """<script>{
    const root = document.documentElement, found = {};
    found.wide = [...document.body.querySelectorAll("*")].filter(e => !e.closest(".scroll, pre, svg") &&
      e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.tagName);
    const heads = [...document.querySelectorAll("#table th button")], at = heads.findIndex(b => b.textContent === "predicted");
    heads[at].click();
    found.times = [...document.querySelectorAll("#table tbody tr")].map(r => Number(r.cells[at].dataset.v));
    found.sort = heads[at].parentElement.getAttribute("aria-sort");
    const input = document.getElementById("filter");
    input.value = "pooling"; input.dispatchEvent(new Event("input"));
    found.shown = [...document.querySelectorAll("#table tbody tr")].filter(r => !r.hidden).length;
    document.body.innerHTML = ""; document.body.append(JSON.stringify(found));
    }</script></body>"""
    frame = '<iframe id="f" src="page.html" style="width: {}px; height: 900px"></iframe>'
    (tmp_path / "page.html").write_text(text.replace("</body>", probe))
    for width in (360, 1440):
        # A window of Chromium's is at least 500 px wide, so that the page is looked at in a frame.
        outer = (
            frame.format(width)
            + "<script>onload = () => document.body.append(f.contentDocument.body.textContent)</script>"
        )
        (tmp_path / "outer.html").write_text(outer)
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--window-size=1600,1000",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "outer.html").as_uri(),
        ]  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        seen = json.loads(re.search(r"\{.*\}", said)[0])
        assert seen["wide"] == [] and seen["sort"] == "descending" and seen["shown"] == 2
        assert seen["times"] == sorted(seen["times"], reverse=True) and len(seen["times"]) == 23

"""The GPUs as data: every number in its range and with its source, the views of it, and what a user's own file may say."""

import json

import pytest

from convatlas.errors import DtypeError, InputError
from convatlas.kernels.common.target import TARGETS, Target, of
from convatlas.model.ceilings import Ceilings
from convatlas.model.gpu import DATA, GPU, Architecture, gpu, names, of_device, representative
from convatlas.study.roofline import H100

NUMBERS = (
    "sms",
    "clock_hz",
    "dram_bytes",
    "dram_bytes_per_s",
    "l2_bytes",
    "l2_bytes_per_clock",
    "half_fma",
    "tensor",
    "vector",
)


def test_the_file_fits_its_schema_and_cites_a_source_for_every_number():
    from convatlas.model.schema import Document  # pydantic's, which a GPU machine may not have

    document = json.loads(DATA.read_text())
    Document.model_validate(document)
    used = set()
    for kind, fields in (("gpus", GPU), ("architectures", Architecture)):
        for name, row in document[kind].items():
            unknown = set(row["sources"]) - {"*"} - set(fields.__dataclass_fields__)
            assert not unknown, f"{name} has a source for {unknown}"
            assert "*" in row["sources"]
            used |= set(row["sources"].values())
    assert used == set(document["sources"])
    assert all(len(text) > 20 for text in document["sources"].values())


@pytest.mark.parametrize("name", names())
def test_published_peaks_follow_from_units_and_clock(name):
    """Multiply-adds a clock, SMs and clock give the peaks; 8 % lower where tensor cores were rated at a lower clock."""
    one = gpu(name)
    reckoned = 2 * one.half_fma * one.sms * one.clock_hz
    assert 0.92 <= one.rate("float16") / reckoned <= 1.01
    lanes = 64 if one.arch in (70, 75, 80) else 128
    assert one.vector["float32"] / (2 * lanes * one.sms * one.clock_hz) == pytest.approx(1, rel=0.15)
    if one.tensor["tf32"]:
        assert one.tensor["tf32"] == pytest.approx(one.rate("float16") / 2, rel=0.03)


def test_the_three_views_have_the_numbers_of_the_data():
    assert TARGETS["sm_90"] == of(gpu("h100-sxm")) == Target(90, 132, 2048, 227 * 1024)
    assert TARGETS["sm_80"] == Target(80, 108, 1024, 163 * 1024)
    assert TARGETS["sm_100"] == Target(100, 148, 4096, 227 * 1024)
    assert (H100.tensor, H100.vector, H100.bandwidth) == (989.4e12, 133.8e12, 3.35e12)
    published = Ceilings.published(gpu("h100-sxm"))
    assert published.matmul_flops_per_s["float16"] == 989.4e12 and published.copy_bytes_per_s == 3.35e12


def test_names():
    assert gpu("H100 SXM").name == "h100-sxm"
    assert of_device("NVIDIA H100 80GB HBM3") is gpu("h100-sxm") and of_device("Voodoo 2") is None
    assert representative(90).half_fma == 2048 and representative(87).arch == 86
    with pytest.raises(InputError, match="nearest: h100-sxm"):
        gpu("h100-smx")


def test_what_is_not_published_is_no_number():
    assert gpu("h100-sxm").l2_bytes_per_clock is None
    assert gpu("a100-80").l2_bytes_per_clock == 5120
    with pytest.raises(DtypeError, match="V100 SXM2 do not multiply bfloat16, expected float16 or float32"):
        gpu("v100").rate("bfloat16")


def test_a_users_file_may_differ_from_a_known_gpu_in_what_it_says(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"like": "a100-80", "sms": 98, "title": "A100, MIG"}))
    mine = gpu(str(file))
    assert (mine.name, mine.title, mine.sms, mine.half_fma, mine.arch) == ("mine", "A100, MIG", 98, 1024, 80)
    assert "mine.json" in mine.source("sms")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "holds list"),
        ("{", "is not JSON"),
        ('{"arch": 90}', "Field required"),
        ('{"like": "h100-sxm", "sms": -3}', "sms: Input should be greater than 0, given '-3'"),
        ('{"like": "h100-sxm", "cores": 3}', "cores: Extra inputs are not permitted"),
        ('{"like": "h100-sxm", "vector": {}}', "vector.float32 is missing"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(text, said, tmp_path):
    file = tmp_path / "wrong.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"wrong\.json") as caught:
        gpu(str(file))
    assert said in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        gpu(str(tmp_path / "none.json"))

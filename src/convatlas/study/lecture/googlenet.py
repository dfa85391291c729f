"""GoogLeNet: the Inception module, naive and with bottlenecks, and a network of few parameters."""

from __future__ import annotations

from convatlas.specs import ConcatSpec, Conv2dSpec, Pool2dSpec, Spec
from convatlas.study.lecture import tables, trained
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, parameter_counts

NET = "googlenet_2014"
MAP = (1, 256, 28, 28)
SQUEEZED = 64  # channels of each bottleneck in the lecture's example

ABOUT = """
An **Inception module** looks at its input through windows of several sizes at once, 1x1, 3x3, 5x5 and a 3x3 pooling, and
concatenates what they give along the channels. Done naively that is too expensive: every branch works on all input channels,
and the pooling alone hands all of them on, so that the module's output is deeper than its input and the next one dearer still.
The remedy is a 1x1 convolution to few channels, a **bottleneck**, before each wide window and behind the pooling.

Nine such modules, no hidden fully connected layer: global average pooling takes 7x7x1024 to 1024 numbers. Two auxiliary
classifiers hang on the middle in training, to bring gradients to the lower half; at inference they are gone.
`googlenet_2014` is the paper's network; `googlenet` is torchvision's, whose third branch has 3x3 in the place of 5x5.
"""

DIAGRAM = """
flowchart TB
  x["28x28x256"] --> a["1x1, 128"]
  x --> b0["1x1, 64"] --> b["3x3, 192"]
  x --> c0["1x1, 64"] --> c["5x5, 96"]
  x --> d0["max pool 3x3 /1"] --> d["1x1, 64"]
  a --> y["concat"]
  b --> y
  c --> y
  d --> y
  classDef bottleneck stroke-width:3px
  class b0,c0,d bottleneck
"""


def conv(x: tuple[int, ...], K: int, kernel: int) -> Conv2dSpec:
    """A convolution of stride 1 that keeps the map's size."""
    return Conv2dSpec.of(x, (K, x[1], kernel, kernel), padding=kernel // 2)


def naive() -> list[list[Spec]]:
    """The example's branches: 1x1 to 128 channels, 3x3 to 192, 5x5 to 96, a pooling; each works on the whole input."""
    return [[conv(MAP, 128, 1)], [conv(MAP, 192, 3)], [conv(MAP, 96, 5)], [pooling()]]


def bottleneck() -> list[list[Spec]]:
    """The same, with 1x1 convolutions to SQUEEZED channels before 3x3 and 5x5 and behind the pooling."""
    down = conv(MAP, SQUEEZED, 1)
    behind = [conv(down.output_shape, 192, 3), conv(down.output_shape, 96, 5)]
    return [
        [conv(MAP, 128, 1)],
        [down, behind[0]],
        [down, behind[1]],
        [pooling(), conv(pooling().output_shape, SQUEEZED, 1)],
    ]


def pooling() -> Pool2dSpec:
    return Pool2dSpec.of("max", MAP, 3, 1, 1)


def macs(branches: list[list[Spec]]) -> int:
    return sum(spec.macs for branch in branches for spec in branch)


def depth(branches: list[list[Spec]]) -> int:
    """Channels of the concatenation."""
    return ConcatSpec.of([branch[-1].output_shape for branch in branches], 1).output_shape[1]


def expensive(atlas: Atlas) -> Finding:
    return Finding(
        (
            Number("naive module, MACs", macs(naive()), 854_200_000),
            Number("naive module, output channels", depth(naive()), 672),
            Number("input channels", MAP[1]),
        ),
        "MACs of the convolutions on a map of 28x28x256, padding's zeros included; the pooling multiplies nothing",
    )


def cheaper(atlas: Atlas) -> Finding:
    return Finding(
        (
            Number("with bottlenecks, MACs", macs(bottleneck()), macs(naive()), "<="),
            Number("of the naive module's", macs(bottleneck()) / macs(naive()), unit="%"),
            Number("with bottlenecks, output channels", depth(bottleneck()), depth(naive()), "<="),
        ),
        f"the same module with 1x1 to {SQUEEZED} channels before 3x3 and 5x5 and behind the pooling; its 1x1 are counted too",
    )


def twelve(atlas: Atlas) -> Finding:
    alexnet, net = atlas.summary("alexnet_2012"), atlas.summary(NET)
    linear = net.share("fc", "parameters") * net.parameters
    return Finding(
        (
            Number("AlexNet's parameters to GoogLeNet's", alexnet.parameters / net.parameters, 12),
            Number("alexnet_2012, parameters", alexnet.parameters),
            Number(f"{NET}, parameters", net.parameters),
            Number("the ratio without GoogLeNet's own linear layer", alexnet.parameters / (net.parameters - linear)),
        ),
        "all parameters of the paper's networks with 1000 classes, GoogLeNet without its auxiliary heads",
    )


def no_fc(atlas: Atlas) -> Finding:
    net, alexnet = atlas.summary(NET), atlas.summary("alexnet_2012")
    linear = [row for row in net.rows if row.kind == "fc"]
    return Finding(
        (
            Number("linear layers", len(linear), 0),
            Number("of them hidden ones", len(linear) - 1),
            Number("their share of the parameters", net.share("fc", "parameters"), unit="%"),
            Number("the share of AlexNet's in its linear layers", alexnet.share("fc", "parameters"), unit="%"),
        ),
        "linear layers at inference; a last one makes the class scores",
    )


def layers(atlas: Atlas) -> Finding:
    return Finding(
        (
            Number("layers on the longest path", atlas.summary(NET).depth, 22),
            Number("convolutions and linear layers in all", len(atlas.rows(NET))),
            Number("Inception modules", len({r.path.split(".")[0] for r in atlas.rows(NET) if "inception" in r.path})),
        ),
        "layers with weights on the longest path from image to logits, as the paper counts; pooling has none",
    )


def heads(atlas: Atlas) -> Finding:
    def found(train: bool) -> int:
        rows = atlas.rows(NET, aux=True, train=train, batch=2)
        return len({row.path.split(".")[0] for row in rows if row.path.startswith("aux")})

    idle = atlas.summary(NET, aux=True, train=False, batch=2).idle_parameters
    return Finding(
        (
            Number("heads that run in training", found(True), 2),
            Number("heads that run at inference", found(False), 0),
            Number("parameters in the heads", idle),
        ),
        "modules whose layers a trace of the network in each mode contains",
    )


def helped(atlas: Atlas) -> Finding:
    runs = trained.load()["auxiliary"]
    names = "conv1", "conv2", "conv3"
    ratios = [sum(run["with"][i] / run["without"][i] for run in runs) / len(runs) for i in range(len(names))]
    return Finding(
        tuple(Number(f"{name}, with them over without", ratio, 1, ">=") for name, ratio in zip(names, ratios)),
        f"norms of the gradients of the first three convolutions' weights at initialisation, the mean of {len(runs)} seeds, random "
        "images; that gradients grow is shown, not that the net learns better for it. The norms are stored "
        "(study/lecture/trained.py)",
    )


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return tables.family(atlas, (NET, "googlenet", "alexnet_2012", "vgg16")), tables.stages(atlas, NET)


TOPIC = Topic(
    "googlenet",
    "GoogLeNet (2014)",
    (NET, "googlenet"),
    ABOUT,
    DIAGRAM,
    (
        Claim("12x fewer parameters than AlexNet", twelve),
        parameter_counts("parameters, with the paper's 5x5 branch and no auxiliary heads", {NET: 6_998_552}),
        Claim("no FC layers", no_fc),
        Claim("1x1, 3x3, 5x5 and pooling, concatenated, are too expensive: 854.2M multiplications", expensive),
        Claim("so 1x1 bottlenecks are added", cheaper),
        Claim("22 layers", layers),
        Claim("auxiliary classifiers are present in training, absent in inference", heads),
        Claim("auxiliary classifiers bring gradient to the first layers", helped),
    ),
    (),
    shown,
)

"""VGG: depth by small filters, and where parameters, work and memory are."""

from __future__ import annotations

from math import prod

from convatlas.call import Call
from convatlas.specs import Conv2dSpec
from convatlas.study.layer import Layer, Node
from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered, parameter_counts
from convatlas.study.receptive import fields
from convatlas.study.summary import Summary

NETS = ("vgg11", "vgg13", "vgg16", "vgg19")
COURSE = "CS231n course notes, Convolutional Networks, VGGNet in detail"

ABOUT = """
Nothing but 3x3 convolutions with padding 1, which keep the size of the map; 2x2 pooling halves it five times, and after each
pooling the channels double, up to 512. Three fully connected layers, as in AlexNet.

Why 3x3? A stack of three sees 7x7 pixels of its input, as one 7x7 filter does, and has three activations in place of one.
For C channels in and out it costs 3 x 9 C^2 = 27 C^2 weights against 49 C^2.
"""

DIAGRAM = """
flowchart LR
  image["image<br>3x224x224"] --> s1["2 x conv 3x3, 64<br>max 2x2 /2"]
  s1 --> s2["2 x conv 3x3, 128<br>max 2x2 /2"]
  s2 --> s3["3 x conv 3x3, 256<br>max 2x2 /2"]
  s3 --> s4["3 x conv 3x3, 512<br>max 2x2 /2"]
  s4 --> s5["3 x conv 3x3, 512<br>max 2x2 /2"]
  s5 --> f["linear 25088 to 4096<br>linear 4096 to 4096<br>linear 4096 to 1000"]
"""


def depth(atlas: Atlas) -> Finding:
    alexnet = atlas.summary("alexnet_2012").depth
    return Finding(
        (
            Number("layers of vgg16", atlas.summary("vgg16").depth, 16),
            Number("layers of vgg19", atlas.summary("vgg19").depth, 19),
            Number("layers of alexnet_2012", alexnet),
            Number("vgg16 to AlexNet, layers", atlas.summary("vgg16").depth / alexnet, 2, ">="),
        ),
        "layers with weights, convolutions and linear ones; much deeper: taken as at least twice as many",
    )


def only_3x3(atlas: Atlas) -> Finding:
    numbers = []
    for name in NETS:
        kinds = [row.kind for row in atlas.rows(name) if row.kind != "fc"]
        numbers.append(Number(f"{name}, convolutions that are 3x3", kinds.count("3x3") / len(kinds), 1.0, unit="%"))
    return Finding(tuple(numbers), "all convolutions of the four depths, by number")


def conv(C: int, kernel: int) -> Conv2dSpec:
    """A convolution from C to C channels that keeps its map's size."""
    return Conv2dSpec.of((1, C, 15, 15), (C, C, kernel, kernel), padding=kernel // 2)


def field(atlas: Atlas) -> Finding:
    def stack(kernel: int, count: int) -> int:
        layer = Layer("", Call("conv2d", conv(1, kernel)))
        return fields([Node(layer, ((i - 1,),), ()) for i in range(count)])[-1][0].size

    one = stack(7, 1)
    return Finding(
        (Number("field of three 3x3", stack(3, 3), one), Number("field of one 7x7", one, 7)),
        "pixels along a side that one output depends on, traced through the layers; stride 1",
    )


def fewer(atlas: Atlas) -> Finding:
    numbers = []
    for C in (64, 512):
        three, one = 3 * conv(C, 3).parameters, conv(C, 7).parameters
        numbers += [
            Number(f"three 3x3, weights over C^2, C = {C}", three / C**2, 27),
            Number(f"one 7x7, weights over C^2, C = {C}", one / C**2, 49),
            Number(f"the ratio, C = {C}", three / one, 1, "<="),
        ]
    return Finding(
        tuple(numbers), "weights of convolutions from C to C channels, without biases; MACs have the same ratio"
    )


def memory(atlas: Atlas) -> Finding:
    s = atlas.summary("vgg16", dtype="float32")
    relus = sum(prod(row.spec.output_shape) for row in s.rows if row.layer.epilogue and row.layer.epilogue.activation)
    return Finding(
        (
            Number("numbers: the image and every op's output", s.activations, 24_000_000),
            Number("bytes of them in float32", s.activation_bytes, unit="B"),
            Number("numbers, if each relu kept an output of its own", s.activations + relus),
            Number("bytes alive at once, at inference, float32", s.peak_bytes, unit="B"),
        ),
        "vgg16, one image of 224x224, forward only; the course's own table has the same rows, and they add up to what is found "
        "here, not to its total",
    )


def where(atlas: Atlas) -> Finding:
    s = atlas.summary("vgg16")
    early = early_part(s)
    return Finding(
        (
            Number("parameters in the linear layers", s.share("fc", "parameters"), 0.5, ">=", "%"),
            Number("parameters of the first linear layer", first_fc(s)),
            Number("activations of the stages at 224x224 and 112x112", early["activations"], 0.5, ">=", "%"),
            Number("MACs in those two stages", early["macs"], unit="%"),
            Number("MACs in all convolutions", 1 - s.share("fc"), 0.5, ">=", "%"),
        ),
        "vgg16; most: taken as more than half; early: what writes maps of 112x112 pixels and more; the course says compute "
        "time, here are MACs, of which nothing is claimed",
    )


def first_fc(s: Summary) -> int:
    return next(row.parameters for row in s.rows if row.kind == "fc")


def early_part(s: Summary) -> dict[str, float]:
    """Shares of the rows that write maps of 112 pixels and more."""
    rows = [row for row in s.rows if len(row.spec.output_shape) == 4 and row.spec.output_shape[2] >= 112]
    outputs = sum(prod(row.spec.output_shape) for row in rows)
    return {"activations": outputs / s.activations, "macs": sum(row.macs for row in rows) / s.macs}


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return tables.family(atlas, NETS), tables.stages(atlas, "vgg16")


TOPIC = Topic(
    "vgg",
    "VGG (2014)",
    (*NETS, *(f"{name}_bn" for name in NETS)),
    ABOUT,
    DIAGRAM,
    (
        Claim("much deeper: 16 to 19 layers", depth),
        Claim("only 3x3 filters", only_3x3),
        Claim("three stacked 3x3 see the same 7x7 area", field),
        Claim("with fewer parameters: 27C^2 against 49C^2", fewer),
        parameter_counts("parameters of VGG-16 and VGG-19", {"vgg16": 138_357_544, "vgg19": 143_667_240}),
        Claim("24M numbers of activations per image", memory, COURSE),
        Claim("most memory is in the early CONV layers, most parameters are in the last FC layers", where, COURSE),
    ),
    (Unanswered("its FC features generalise well", "trained weights and other data sets"),),
    shown,
)

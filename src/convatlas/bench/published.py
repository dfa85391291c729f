"""Convolutions whose times others have published: DeepBench's and convnet-benchmarks' layers. Facts; the sources are cited.

DeepBench        Baidu Research, https://github.com/baidu-research/DeepBench, code/kernels/conv_problems.h at commit 1a81dcb (2017):
                 training_set, inference_server_set and inference_device_set. Forward passes here; entries that the file lists
                 twice stand once.
convnet          Chintala, https://github.com/soumith/convnet-benchmarks, README.md and torch7/layerwise_benchmarks/benchmark.lua at
                 commit 1ca1fe8 (2014-2015): layers L1 to L5, 128 images, no padding.
DCGAN            the generator of Radford, Metz, Chintala 2015 (arXiv 1511.06434) as PyTorch's example has it,
                 https://github.com/pytorch/examples, dcgan/main.py: five transposed convolutions, 64 images.
EfficientNet-B0  the products of squeeze and excitation (Tan, Le 2019, arXiv 1905.11946, table 1), 32 images: no network here has
                 any, and nobody has published times of them alone; and silu by itself on its first and its last map.
MobileNetV3      hardswish by itself on the first and the last map of MobileNetV3-Large (Howard et al. 2019, arXiv 1905.02244,
                 table 1), and the maximum over the last, 32 images: as launches of their own, which a plan fuses where it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from convatlas.call import Call
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    Conv2dSpec,
    ConvTranspose2dSpec,
    ElementwiseSpec,
    Epilogue,
)
from convatlas.study.tracing import Layer

# (W, H, C, K, S, R, pad W, pad H, stride W, stride H), in DeepBench's order; what it calls each group's use.
SPEECH_1 = ((700, 161, 1, 32, 20, 5, 0, 0, 2, 2), (341, 79, 32, 32, 10, 5, 0, 0, 2, 2))
TEXT = tuple(
    (w, h, c, k, 3, 3, 1, 1, 1, 1)
    for w, h, c, k in ((480, 48, 1, 16), (240, 24, 16, 32), (120, 12, 32, 64), (60, 6, 64, 128))
)
FACES = (
    (108, 108, 3, 64, 3, 3, 1, 1, 2, 2),
    *(
        (size, size, c, k, 3, 3, 1, 1, 1, 1)
        for size, c, k in ((54, 64, 64), (27, 128, 128), (14, 128, 256), (7, 256, 512))
    ),
)
VGG = tuple(
    (size, size, c, k, 3, 3, 1, 1, 1, 1)
    for size, c, k in ((224, 3, 64), (112, 64, 128), (56, 128, 256), (28, 256, 512), (14, 512, 512), (7, 512, 512))
)
GOOGLENET = (
    (224, 224, 3, 64, 7, 7, 3, 3, 2, 2),
    *(
        (size, size, c, k, r, r, r // 2, r // 2, 1, 1)
        for size, c, k, r in (
            (28, 192, 32, 5), (28, 192, 64, 1), (14, 512, 48, 5), (14, 512, 192, 1), (7, 832, 256, 1), (7, 832, 128, 5),
        )
    ),
)  # fmt: skip
RESNET_1 = tuple(
    (size, size, c, k, r, r, pad, pad, stride, stride)
    for size, c, k, r, pad, stride in (
        (56, 64, 64, 3, 1, 1), (56, 64, 256, 1, 0, 2), (28, 128, 128, 3, 1, 1), (28, 128, 512, 1, 0, 2), (14, 256, 256, 1, 0, 1),
        (14, 256, 256, 3, 1, 1), (14, 256, 1024, 1, 0, 2), (7, 512, 512, 1, 0, 1), (7, 2048, 512, 1, 3, 2),
    )
)  # fmt: skip
SPEECH_2 = tuple(
    (w, h, c, k, r, r, 1, 1, stride, stride)
    for w, h, c, k, r, stride in (
        (700, 161, 1, 64, 5, 2), (350, 80, 64, 64, 3, 1), (350, 80, 64, 128, 5, 2), (175, 40, 128, 128, 3, 1),
        (175, 40, 128, 256, 5, 2), (84, 20, 256, 256, 3, 1), (84, 20, 256, 512, 5, 2), (42, 10, 512, 512, 3, 1),
    )
)  # fmt: skip
RESNET_2 = tuple(
    (size, size, c, k, 1, 1, 0, 0, stride, stride)
    for size, c, k, stride in (
        (112, 64, 64, 1), (56, 64, 256, 1), (56, 256, 64, 1), (56, 256, 128, 2), (28, 128, 512, 1), (28, 512, 128, 1),
        (28, 512, 256, 2), (14, 256, 1024, 1), (28, 512, 1024, 2), (14, 1024, 256, 1), (14, 1024, 512, 2), (7, 512, 2048, 1),
        (14, 1024, 2048, 2), (7, 2048, 512, 1),
    )
)  # fmt: skip
PHONE = ((151, 40, 1, 32, 20, 5, 8, 8, 8, 2),)

# (geometries, batches in training_set, batches in the two inference sets)
DEEPBENCH = (
    (SPEECH_1, (4, 8, 16, 32), (1, 2, 4)),
    (TEXT, (16,), (1,)),
    (FACES, (8,), (1,)),
    (VGG, (8, 16), (1, 2)),
    (GOOGLENET, (16,), (1, 2)),
    (RESNET_1, (8, 16), (1, 2)),
    (SPEECH_2, (16,), (1, 2)),
    (RESNET_2, (8, 16), (1, 2)),
    (PHONE, (), (1,)),
)

# (C, K, pixels, kernel) of L1 to L5.
CONVNET = ((3, 96, 128, 11), (64, 128, 64, 9), (128, 128, 32, 9), (128, 128, 16, 7), (384, 384, 13, 3))
CONVNET_BATCH = 128
# (C, K, pixels, stride, padding) of the generator's layers; all kernels are 4x4.
DCGAN = ((100, 512, 1, 1, 0), (512, 256, 4, 2, 1), (256, 128, 8, 2, 1), (128, 64, 16, 2, 1), (64, 3, 32, 2, 1))
DCGAN_BATCH = 64


# (channels, pixels) of the expanded maps of EfficientNet-B0's blocks behind their depthwise convolutions.
SCALED = (
    (32, 112), (96, 56), (144, 56), (144, 28), (240, 28), (240, 14), (480, 14), (672, 14), (672, 7), (1152, 7),
)  # fmt: skip
SCALED_BATCH = 32


# (op, channels, pixels) of the element-wise launches and of the maximum over a map.
ALONE = {
    "EfficientNet-B0": (("silu", 32, 112), ("silu", 1280, 7)),
    "MobileNetV3": (("hardswish", 16, 112), ("hardswish", 960, 7), ("adaptive_max_pool2d", 960, 7)),
}


class Published(NamedTuple):
    """One layer of a published list: which list, and the layer with no epilogue, as they time it."""

    source: str
    layer: Layer


def _layer(spec: Conv2dSpec) -> Layer:
    return Layer("", Call("conv2d", spec, Epilogue()))


def _deepbench(batch: int, geometry: tuple[int, ...]) -> Layer:
    W, H, C, K, S, R, pad_w, pad_h, stride_w, stride_h = geometry
    return _layer(Conv2dSpec.of((batch, C, H, W), (K, C, R, S), (stride_h, stride_w), (pad_h, pad_w)))


def published() -> Iterator[Published]:
    """convnet-benchmarks' five layers, DCGAN's five, EfficientNet-B0's ten products, what stands in ALONE, DeepBench's for training
    and for inference; each layer of a list once.
    """
    for C, K, size, kernel in CONVNET:
        spec = Conv2dSpec.of((CONVNET_BATCH, C, size, size), (K, C, kernel, kernel))
        yield Published("convnet-benchmarks", _layer(spec))
    for C, K, size, stride, padding in DCGAN:
        spec = ConvTranspose2dSpec.of((DCGAN_BATCH, C, size, size), (C, K, 4, 4), stride, padding)
        yield Published("DCGAN", Layer("", Call("conv_transpose2d", spec, Epilogue())))
    for C, size in SCALED:
        spec = ChannelScaleSpec.of((SCALED_BATCH, C, size, size), (SCALED_BATCH, C, 1, 1))
        yield Published("EfficientNet-B0", Layer("", Call("channel_scale", spec, Epilogue())))
    for source, launches in ALONE.items():
        for op, C, size in launches:
            shape, pool = (SCALED_BATCH, C, size, size), op.startswith("adaptive")
            spec = AdaptivePool2dSpec.of(shape, 1, "max") if pool else ElementwiseSpec(op, shape)
            yield Published(source, Layer("", Call(op, spec)))
    for source, place in (("DeepBench training", 1), ("DeepBench inference", 2)):
        for group in DEEPBENCH:
            for batch in group[place]:
                for geometry in group[0]:
                    yield Published(source, _deepbench(batch, geometry))

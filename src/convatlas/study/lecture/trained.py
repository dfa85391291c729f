"""What training decides of the lecture, computed by training: gradients by depth in plain and residual nets, auxiliary classifiers.

    python -m convatlas.study.lecture.trained        trains anew, on a CPU in some minutes, and writes trained.json

The file holds numbers and how they came about; verdicts are computed from them as from all others (claim.py). All of it runs
through our ops, on the NumPy backend.

    gradients    of each convolution's weights, the 2-norm, in the order of depth: at initialisation and after STEPS steps of SGD
    steps        work and memory of a training step, from shapes alone, STEP_BATCH images in float16
    auxiliary    norms of the gradients of GoogLeNet's first three convolutions, with and without the auxiliary classifiers' losses
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convatlas.files import write_text

PATH = Path(__file__).with_name("trained.json")
BY_DEPTH = ("plain18", "plain34", "resnet18", "resnet34")
SIZE, BATCH, STEPS, RATE, CLASSES = 32, 16, 5, 0.01, 10
AUXILIARY_NET, SEEDS, AUXILIARY_SIZE, AUXILIARY_BATCH = "googlenet_2014", 2, 224, 2
STEPPED, STEP_BATCH = ("alexnet", "vgg16", "googlenet", "resnet50", "resnet152", "mobilenet_v2"), 32
HOW = (
    f"gradients: random images of {SIZE}x{SIZE} pixels, {BATCH} at a time, {CLASSES} classes, SGD of rate {RATE}, momentum 0.9; "
    f"auxiliary: at initialisation, {SEEDS} seeds, {AUXILIARY_BATCH} random images of {AUXILIARY_SIZE}x{AUXILIARY_SIZE}, the "
    "losses weighted by 0.3"
)


def load(path: Path = PATH) -> dict[str, Any]:
    """What is stored."""
    return json.loads(path.read_text(encoding="utf-8"))


def convolutions(net: Any) -> list[float]:
    """2-norms of the gradients of the convolutions' weights, in the order in which the net has them.

    Shortcuts are left out, and what takes no part in the loss.
    """
    from convatlas.nets.layers import Conv2d

    found = [m for name, m in net.named_modules() if isinstance(m, Conv2d) and "downsample" not in name]
    return [float(m.weight.grad.norm()) for m in found if m.weight.grad is not None]


def gradients(name: str, size: int = SIZE, batch: int = BATCH, count: int = STEPS) -> dict[str, list[float]]:
    """Norms at initialisation, and behind `count` steps of SGD."""
    import torch

    from convatlas.train.run import loss_of, network

    draw, net = torch.Generator().manual_seed(0), network(name, CLASSES, 3, 0).train()
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9)
    x, y = torch.randn(batch, 3, size, size, generator=draw), torch.randint(CLASSES, (batch,), generator=draw)
    found = []
    for _ in range(count + 1):
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        found.append(convolutions(net))
        optimizer.step()
    return {"start": found[0], "later": found[-1]}


def auxiliary(seed: int, size: int = AUXILIARY_SIZE, batch: int = AUXILIARY_BATCH) -> dict[str, list[float]]:
    """Norms of the first three convolutions' gradients by the loss of the logits alone and with the auxiliary losses."""
    import torch
    import torch.nn.functional as F

    from convatlas.train.run import loss_of, network

    draw, found = torch.Generator().manual_seed(seed), {}
    x, y = torch.randn(batch, 3, size, size, generator=draw), torch.randint(CLASSES, (batch,), generator=draw)
    for what, loss in (("without", lambda out: F.cross_entropy(out[0], y)), ("with", lambda out: loss_of(out, y))):
        net = network(AUXILIARY_NET, CLASSES, 3, seed).train()
        torch.manual_seed(seed)
        loss(net(x)).backward()
        found[what] = convolutions(net)[:3]
    return found


def step(name: str) -> dict[str, Any]:
    """The numbers of a training step that claims ask for (study/training.py), and the memory of inference beside them."""
    import torch

    from convatlas.nets.registry import create, info, training_options
    from convatlas.study.summary import summarise
    from convatlas.study.training import inference_bytes, training_step

    with torch.device("meta"):
        net = create(name, **training_options(name))
    found = training_step(net, (STEP_BATCH, 3, *2 * (info(name).size,)), name=name)
    s = summarise(name, None, STEP_BATCH)
    return {
        "first": found.layers[0].products,
        "all": [sum(layer.products[i] for layer in found.layers) for i in (0, 1)],
        "kept": found.kept,
        "memory": found.memory,
        "checkpointed": found.memory - found.kept + found.checkpointed[0],
        "segments": found.checkpointed[1],
        "inference": inference_bytes(s.parameters - s.idle_parameters, s.peak_bytes, s.dtype),
    }


def computed() -> dict[str, Any]:
    """All of it, trained now."""
    from convatlas.ops.backends import use_backend

    with use_backend("numpy"):
        return {
            "how": HOW,
            "gradients": {name: gradients(name) for name in BY_DEPTH},
            "steps": {name: step(name) for name in STEPPED},
            "auxiliary": [auxiliary(seed) for seed in range(SEEDS)],
        }


if __name__ == "__main__":
    write_text(PATH, json.dumps(computed(), indent=1) + "\n")
    print(f"wrote {PATH}")

"""The lecture, CS231n's on CNN architectures: its claims, each computed from the networks, with a verdict.

There is one file a topic. A claim is a statement and a function from networks to numbers (claim.py); its verdict follows from
these.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from convatlas.names import spelled
from convatlas.nets import registry

if TYPE_CHECKING:
    from convatlas.study.lecture.claim import Topic

# Names, in the lecture's order, and where each Topic is: importing one needs torch, knowing their names does not.
_WHERE = {
    "alexnet": "alexnet.TOPIC",
    "vgg": "vgg.TOPIC",
    "googlenet": "googlenet.TOPIC",
    "resnet": "resnet.TOPIC",
    "nin": "nin.TOPIC",
    "wide_resnet": "wide_resnet.TOPIC",
    "resnext": "resnext.TOPIC",
    "squeezenet": "squeezenet.TOPIC",
    "mobilenet_v1": "mobilenet.TOPIC",
    "mobilenet_v2": "mobilenet_v2.TOPIC",
    "efficientnet_lite0": "mobilenet_v2.TOPIC_LITE",
    "1x1": "pointwise.TOPIC",
}


def names() -> list[str]:
    """All topics, in the lecture's order."""
    return list(_WHERE)


def check(name: str) -> str:
    """The topic's or network's name as it is written here. Raises NetError, with the nearest names, for an unknown one."""
    known = [*_WHERE, *registry.names()]
    return spelled(name, known, "topic", f"the topics are {', '.join(_WHERE)}, and every network is one")


def topic(name: str) -> Topic:
    """The topic of that name, or the one that a network of that name belongs to. Raises NetError for an unknown one."""
    plain = check(name)
    if plain in _WHERE:
        module, attribute = _WHERE[plain].split(".")
        return getattr(import_module(f"convatlas.study.lecture.{module}"), attribute)
    return next(found for found in map(topic, _WHERE) if plain in found.nets)

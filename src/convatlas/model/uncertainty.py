"""How far predicted times lay from measured ones: the share within which nine of ten held-out layers of a kind were.

Written by `python -m convatlas.study.evaluation.fitted --write`; the layers of ResNet-50 and VGG-16, on which the model was fitted,
are not among them, except for kinds that no other network has.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

DATA = Path(__file__).with_name("uncertainty.json")


@cache
def _shares() -> dict[str, dict[str, float]]:
    return json.loads(DATA.read_text(encoding="utf-8"))


def within(kind: str, backend: str) -> float:
    """A share, such as 0.2: nine of ten layers lay within 20 % of the prediction. For a kind never timed, the widest of all."""
    shares = _shares()
    return shares.get(backend, {}).get(kind) or max(max(kinds.values()) for kinds in shares.values())

"""A driver that launches nothing and counts how often it is asked to."""

from __future__ import annotations

from typing import Any

from convatlas.codegen.stub import Stub


class Counting(Stub):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def launch(self, *given: Any) -> None:
        self.count += 1

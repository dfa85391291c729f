"""What the tests of prepared launches share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from counting_driver import Counting

import convatlas
from convatlas.codegen.stub import stubbed


@pytest.fixture
def driver() -> Iterator[Counting]:
    """Inside, ops on CPU tensors make an H100's launches, which are counted."""
    counting = Counting()
    with stubbed(counting), convatlas.use_backend("triton"):
        yield counting

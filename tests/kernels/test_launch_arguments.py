"""What Triton's launchers must be able to carry, held for every op."""

from __future__ import annotations

from convatlas.codegen.inventory import extra_calls, launches_of


def test_no_tuple_of_arguments_lies_within_another() -> None:
    """Triton 3.6 gives an element of a nested tuple that is 1 the value None: a residual's stride, where there was no bias."""
    tuples = 0
    for call in extra_calls():
        for launch in launches_of(call, "float16", 90):
            for value in launch.arguments.values():
                if isinstance(value, tuple):
                    tuples += 1
                    assert not any(isinstance(element, tuple) for element in value), (call, value)
    assert tuples

"""Loops of machine code: basic blocks, dominators, natural loops, and the one that multiplies.

Source: Aho, Lam, Sethi, Ullman, "Compilers: Principles, Techniques, and Tools", 2nd edition, section 9.6.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from convatlas.codegen.sass import BRANCHES, Instruction

ENDS = ("EXIT", "RET")


@dataclass(frozen=True)
class Loop:
    """A natural loop.

    Attributes:
        body: its instructions, by their place in the function, in order of address.
        always: those that every round executes; the others lie behind a branch, such as a tile's end in a loop over all steps.
    """

    body: tuple[int, ...]
    always: frozenset[int]


def loops(code: Sequence[Instruction]) -> list[Loop]:
    """The natural loops of a function; those with one header are one loop."""
    starts = _starts(code)
    successors = _successors(code, starts)
    dominators = _dominators(successors)
    predecessors: list[list[int]] = [[] for _ in successors]
    for block, following in enumerate(successors):
        for one in following:
            predecessors[one].append(block)
    latches: dict[int, list[int]] = {}
    for block, following in enumerate(successors):
        for header in following:
            if header in dominators[block]:
                latches.setdefault(header, []).append(block)
    found = []
    for header, ends in latches.items():
        blocks, waiting = {header}, [end for end in ends if end != header]
        while waiting:
            block = waiting.pop()
            if block not in blocks:
                blocks.add(block)
                waiting += predecessors[block]
        always = set.intersection(*(dominators[end] for end in ends)) & blocks
        found.append(
            Loop(
                tuple(i for block in sorted(blocks) for i in _places(block, starts, code)),
                frozenset(i for block in always for i in _places(block, starts, code)),
            )
        )
    return found


def main_loop(code: Sequence[Instruction], multiplies: Sequence[bool]) -> Loop | None:
    """The loop with the most instructions that multiply, of those that hold no other such loop; None without one.

    multiplies: of each instruction, whether it counts.
    """
    having = [loop for loop in loops(code) if any(multiplies[i] for i in loop.body)]
    innermost = [loop for loop in having if not any(set(other.body) < set(loop.body) for other in having)]
    return max(innermost, key=lambda loop: sum(multiplies[i] for i in loop.body), default=None)


def _starts(code: Sequence[Instruction]) -> list[int]:
    """Places at which basic blocks start."""
    by_address = {one.address: i for i, one in enumerate(code)}
    starts = {0}
    for i, one in enumerate(code):
        if one.target in by_address:
            starts.add(by_address[one.target])
        if one.name in (*BRANCHES, *ENDS) and i + 1 < len(code):
            starts.add(i + 1)
    return sorted(starts)


def _places(block: int, starts: Sequence[int], code: Sequence[Instruction]) -> range:
    return range(starts[block], starts[block + 1] if block + 1 < len(starts) else len(code))


def _successors(code: Sequence[Instruction], starts: Sequence[int]) -> list[list[int]]:
    by_address = {one.address: i for i, one in enumerate(code)}
    found = []
    for block in range(len(starts)):
        last = code[_places(block, starts, code)[-1]]
        following = []
        if last.target in by_address:
            following.append(bisect_right(starts, by_address[last.target]) - 1)
        # A branch may carry its condition as an operand ("BRA.U !UP0, ..." or "BRA P0, ...") instead of a predicate.
        conditional = last.predicate or last.operands.lstrip("!").startswith(("P", "UP"))
        if (conditional or last.name not in (*BRANCHES, *ENDS)) and block + 1 < len(starts):
            following.append(block + 1)
        found.append(following)
    return found


def _dominators(successors: Sequence[Sequence[int]]) -> list[set[int]]:
    """For each block those through which every way from the entry leads, itself included; for one that none reaches, itself."""
    count = len(successors)
    predecessors: list[list[int]] = [[] for _ in range(count)]
    reached, waiting = {0}, [0]
    while waiting:
        for one in successors[waiting.pop()]:
            if one not in reached:
                reached.add(one)
                waiting.append(one)
    for block in reached:
        for one in successors[block]:
            predecessors[one].append(block)
    found = [set(range(count)) if block in reached and block else {block} for block in range(count)]
    changed = True
    while changed:
        changed = False
        for block in sorted(reached - {0}):
            new = set.intersection(*(found[one] for one in predecessors[block])) | {block}
            if new != found[block]:
                found[block], changed = new, True
    return found

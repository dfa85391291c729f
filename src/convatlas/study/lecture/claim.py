"""A claim, what is computed for it, and the verdict, which follows from the numbers alone.

Nobody writes a verdict down. A number holds what was claimed about it, and its distance from that decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convatlas.study.lecture.atlas import Atlas
from convatlas.study.numbers import short

HOLDS, ROUGHLY, FAILS, ASKED = "holds", "roughly", "does not hold", "computed"
CLOSE, ROUGH = 0.01, 0.25

THRESHOLDS = (
    f"holds: within {100 * CLOSE:g} % of what is claimed, or on the claimed side of a bound; roughly: within {100 * ROUGH:g} %; "
    "does not hold: further off; computed: the notes ask for the number and claim none. Of several numbers the worst decides."
)

RELATIONS = {"=": "", ">=": "at least ", "<=": "at most "}


@dataclass(frozen=True)
class Number:
    """A computed number, and what is claimed about it.

    Attributes:
        what: what it counts.
        found: the number, an int where it is a count.
        claimed: what it should be; None where nothing is claimed.
        relation: the claimed relation of found to claimed: "=", ">=" or "<=".
        unit: "" for a plain number, "%" for a share from 0 to 1, else a word behind the number, such as "B" or "FLOPs/B".
    """

    what: str
    found: float
    claimed: float | None = None
    relation: str = "="
    unit: str = ""

    @property
    def error(self) -> float | None:
        """How far `found` is from what is claimed, relative to the claim; 0 on the right side of a bound; None without a claim."""
        if self.claimed is None:
            return None
        missing = {
            "=": abs(self.found - self.claimed),
            ">=": max(self.claimed - self.found, 0),
            "<=": max(self.found - self.claimed, 0),
        }[self.relation]
        if not missing:
            return 0.0
        return missing / abs(self.claimed) if self.claimed else math.inf

    @property
    def verdict(self) -> str:
        error = self.error
        if error is None:
            return ASKED
        return HOLDS if error <= CLOSE else ROUGHLY if error <= ROUGH else FAILS

    def text(self, value: float) -> str:
        """`value` as it is printed in this number's unit."""
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        if self.unit == "B":
            return short(value, "B")
        number = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        return f"{number} {self.unit}".strip()

    @property
    def found_text(self) -> str:
        return self.text(self.found)

    @property
    def claimed_text(self) -> str:
        """ "" without a claim."""
        return "" if self.claimed is None else RELATIONS[self.relation] + self.text(self.claimed)

    @property
    def reason(self) -> str:
        """One clause: what is claimed, what was found, how far apart."""
        if not self.error:
            how = "exactly" if self.found == self.claimed else "as claimed"
        elif math.isinf(self.error):
            how = "more than none"
        else:
            how = f"{100 * self.error:.2g} % {'less' if self.found < self.claimed else 'more'}"
        return f"{self.what}: {self.claimed_text} claimed, {self.found_text} found, {how}"


@dataclass(frozen=True)
class Finding:
    """What was computed for a claim.

    Attributes:
        numbers: the evidence.
        counted: what was counted, and what was not.
    """

    numbers: tuple[Number, ...]
    counted: str

    @property
    def judged(self) -> list[Number]:
        """The numbers about which something is claimed, the one farthest from its claim first."""
        return sorted((n for n in self.numbers if n.claimed is not None), key=lambda n: -n.error)

    @property
    def verdict(self) -> str:
        """The worst number's."""
        return self.judged[0].verdict if self.judged else ASKED

    @property
    def reason(self) -> str:
        """The reason: the number that decided, or that all numbers agree."""
        if not self.judged:
            return "a number that is asked for, not claimed"
        worst = self.judged[0]
        if worst.error == 0 and len(self.judged) > 1:
            return f"{'both' if len(self.judged) == 2 else f'all {len(self.judged)}'} numbers are what is claimed"
        return worst.reason


@dataclass(frozen=True)
class Claim:
    """One statement of the lecture.

    Attributes:
        says: the statement, in the words of the notes.
        compute: the function from the networks and specs to the evidence.
        source: whose words these are; "" means the notes'.
    """

    says: str
    compute: Callable[[Atlas], Finding]
    source: str = ""


@dataclass(frozen=True)
class Unanswered:
    """A statement that no shape decides: `needs` says what would."""

    says: str
    needs: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first `words` columns are words, the others numbers."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


@dataclass(frozen=True)
class Topic:
    """One architecture.

    Attributes:
        name: its name on the command line.
        title: its title, with the year.
        nets: the nets of the registry that the tables show.
        about: what it is, for someone who has not seen the lecture; Markdown.
        diagram: a diagram of its block, in Mermaid.
        claims: the claims that can be computed.
        unanswered: the statements that cannot be computed.
        tables: what is shown beside the claims.
    """

    name: str
    title: str
    nets: tuple[str, ...]
    about: str
    diagram: str
    claims: tuple[Claim, ...]
    unanswered: tuple[Unanswered, ...] = ()
    tables: Callable[[Atlas], tuple[Table, ...]] | None = None


def parameter_counts(says: str, counts: dict[str, int], counted: str = "") -> Claim:
    """The claim that nets have these numbers of parameters."""

    def compute(atlas: Atlas) -> Finding:
        numbers = (Number(name, atlas.summary(name).parameters, claimed) for name, claimed in counts.items())
        return Finding(tuple(numbers), counted or "weights, biases, and scale and shift of batch norms; 1000 classes")

    return Claim(says, compute)


def as_dict(claim: Claim, finding: Finding) -> dict[str, Any]:
    """For JSON."""
    return {
        "claim": claim.says,
        "source": claim.source or "the notes",
        "verdict": finding.verdict,
        "reason": finding.reason,
        "counted": finding.counted,
        "numbers": [
            {
                "what": n.what,
                "found": n.found,
                "claimed": n.claimed,
                "relation": n.relation if n.claimed is not None else None,
                "unit": n.unit,
                "verdict": n.verdict,
            }
            for n in finding.numbers
        ],
    }

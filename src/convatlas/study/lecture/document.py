"""The lecture as one Markdown document, docs/lecture.md: written by `convatlas lecture --markdown`, the same each time."""

from __future__ import annotations

import textwrap
from collections import Counter

from convatlas.specs import Conv2dSpec
from convatlas.study import lecture
from convatlas.study.lecture import pictures, tables
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import ASKED, FAILS, HOLDS, ROUGHLY, THRESHOLDS, Claim, Finding, Table, Topic
from convatlas.study.numbers import short
from convatlas.study.roofline import H100
from convatlas.study.summary import COUNTED

WIDTH = 120
HEAD = """
# The lecture, computed

<!-- Written by `convatlas lecture --markdown docs/lecture.md`; a test compares it with the code. Change that, not this. -->

CS231n's lecture on CNN architectures, from AlexNet to MobileNet, as a student's notes summarise it. Every network of it is in
this project, and every statement of it that shapes and numbers can decide is decided here: the statement, what was computed
from the network as it is built in `nets/`, and a verdict that follows from the numbers. You need not have seen the lecture.

For one topic at a terminal: `convatlas lecture googlenet`. For one network's layers: `convatlas summary googlenet_2014`.
"""

MARKS = {HOLDS: "✓", ROUGHLY: "≈", FAILS: "✗", ASKED: "·"}


def document(atlas: Atlas, folder: str) -> str:
    """The whole text; `folder` is where its pictures are, relative to it."""
    topics = [lecture.topic(name) for name in lecture.names()]
    findings = {t.name: [(claim, claim.compute(atlas)) for claim in t.claims] for t in topics}
    parts = [
        filled(HEAD),
        contents(topics),
        filled(introduction(atlas)),
        overview(atlas, folder),
        verdicts(topics, findings),
        *(section(t, findings[t.name], atlas) for t in topics),
        counted(),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def contents(topics: list[Topic]) -> str:
    lines = [
        "## Contents",
        "",
        "- [How to read the numbers](#how-to-read-the-numbers)",
        "- [All networks](#all-networks)",
    ]
    lines += ["- [All verdicts](#all-verdicts)", *(f"- [{t.title}](#{anchor(t.title)})" for t in topics)]
    return "\n".join([*lines, "- [What is counted](#what-is-counted)"])


def anchor(title: str) -> str:
    """GitHub's anchor of a heading: lower case, blanks to hyphens, other signs dropped."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def introduction(atlas: Atlas) -> str:
    """GEMM, MACs, bytes, intensity and receptive field, on one layer whose numbers come from its spec."""
    spec = Conv2dSpec.of((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    M, N, K = spec.gemm
    moved, intensity = spec.bytes("float16"), spec.intensity("float16")
    seconds = spec.macs / (H100.tensor / 2), moved / H100.bandwidth
    return f"""
## How to read the numbers

**Convolution.** A convolution layer slides K filters of C x R x S weights over a map of C channels, H x W pixels. Each filter
gives one channel of the output, P x Q pixels: every output is the sum of C * R * S products. The *stride* is how far the window
moves; *padding* adds zeros around the map; with *groups*, a filter sees only C/groups of the channels. One channel a group is
called *depthwise*.

**As a matrix product (GEMM).** Write the window of each output pixel as a row: M = N * P * Q rows of C * R * S numbers. Write
each filter as a column. The layer is then a product of an M x K matrix with a K x N one, in GEMM's letters, and that is how GPUs
compute it. A 3x3 convolution of 64 to 64 channels on 56x56 pixels, a layer of ResNet-18, is {M} x {K} times {K} x {N}. A fully
connected layer has M = the number of images; a 1x1 convolution has K = C and needs no windows at all.

**MACs and FLOPs.** A multiply-accumulate (MAC) is one product added to a sum; it is two floating-point operations (FLOPs).
That layer takes {spec.macs:,} MACs, {spec.flops:,} FLOPs. Papers often say FLOPs and mean MACs: here both have their own name.

**Bytes.** What must move between the GPU's memory and its chip at least: each input, weight and output once, two bytes a
number in float16. These are the *compulsory* bytes; a real kernel moves more. Here: {moved:,}.

**Arithmetic intensity** is FLOPs over bytes: {intensity:.0f} for that layer. A GPU has its own ratio, the **ridge point**: an
{H100.name} does {short(H100.tensor, "FLOP/s")} in its tensor cores and moves {short(H100.bandwidth, "B")}/s, so
{H100.ridge():.0f} FLOPs in the time of a byte ({H100.source}). A layer below the ridge point is *memory-bound*: it waits for
bytes. The layer above needs at least {1e6 * seconds[0]:.2f} µs of arithmetic and {1e6 * seconds[1]:.2f} µs of traffic. These are
predictions from published numbers; nothing on this page was measured on a GPU.

**Receptive field.** The square of input pixels that one output can depend on. A window of R pixels behind a layer whose outputs
are *jump* pixels apart adds (R - 1) * jump; each stride multiplies the jump. Where paths meet, the largest counts.

**Depth** counts the layers with weights, convolutions and fully connected ones, on the longest path from image to scores.

**Verdicts.** {sentence(THRESHOLDS)} Where a claim is loose ("much deeper"), what was counted says how it was read.
"""


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def escaped(text: str) -> str:
    """Plain text as Markdown: a product's asterisks are no emphasis, a bar ends no cell."""
    return text.replace("*", r"\*").replace("|", r"\|")


def filled(text: str) -> str:
    """Paragraphs with lines of one length; indented ones, which are formulas, as they are."""
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join(p if p.startswith(("    ", "#", "<!--")) else fill(p) for p in paragraphs)


def fill(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def overview(atlas: Atlas, folder: str) -> str:
    names = list(pictures.chosen(atlas))
    captions = "\n\n".join(f"![{p.caption}]({folder}/{p.name}.svg)\n\n*{p.caption}*" for p in pictures.PICTURES)
    return f"## All networks\n\n{markdown(tables.family(atlas, names))}\n\n{captions}"


def verdicts(topics: list[Topic], findings: dict[str, list[tuple[Claim, Finding]]]) -> str:
    """All claims at a glance."""
    count = Counter(finding.verdict for found in findings.values() for _, finding in found)
    rows = [
        (
            f"[{t.title}](#{anchor(t.title)})" if i == 0 else "",
            claim.says,
            f"{MARKS[finding.verdict]} {finding.verdict}",
        )
        for t in topics
        for i, (claim, finding) in enumerate(findings[t.name])
    ]
    unanswered = sum(len(t.unanswered) for t in topics)
    sums = ", ".join(f"{count[word]} {meaning}" for word, meaning in SUMMED.items() if count[word])
    table = Table(
        f"{len(rows)} claims: {sums}. {unanswered} more need data, training or a GPU.",
        ("topic", "claim", "verdict"),
        tuple(rows),
        words=3,
    )
    return f"## All verdicts\n\n{markdown(table)}"


SUMMED = {HOLDS: "hold", ROUGHLY: "hold roughly", FAILS: "do not hold", ASKED: "ask for a number and claim none"}


def section(topic: Topic, found: list[tuple[Claim, Finding]], atlas: Atlas) -> str:
    parts = [f"## {topic.title}", filled(topic.about), f"```mermaid\n{topic.diagram.strip()}\n```"]
    parts += [markdown(table) for table in (topic.tables(atlas) if topic.tables else ())]
    parts += ["### Claims", *(paragraph(claim, finding) for claim, finding in found)]
    if topic.unanswered:
        parts.append("Not computed here:")
        parts.append("\n".join(f"- {u.says}: needs {u.needs}" for u in topic.unanswered))
    return "\n\n".join(parts)


def paragraph(claim: Claim, finding: Finding) -> str:
    says = f"**{escaped(sentence(claim.says))}**{f' ({claim.source})' if claim.source else ''}"
    verdict = f"{MARKS[finding.verdict]} **{finding.verdict}**: {escaped(finding.reason)}."
    rows = tuple((n.what, n.found_text, n.claimed_text) for n in finding.numbers)
    header = ("", "computed", "claimed") if finding.judged else ("", "computed")
    table = Table("", header, tuple(row[: len(header)] for row in rows))
    return "\n\n".join((says, fill(verdict), markdown(table), fill(f"Counted: {escaped(finding.counted)}.")))


def counted() -> str:
    return "## What is counted\n\n" + "\n".join(f"- {escaped(sentence(line))}." for line in COUNTED)


def markdown(table: Table) -> str:
    """A Markdown table; words stand left, numbers right."""

    def line(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(map(escaped, cells))} |"

    rule = ["---" if i < table.words else "---:" for i in range(len(table.header))]
    lines = [line(table.header), f"| {' | '.join(rule)} |", *map(line, table.rows)]
    return "\n".join([*([fill(table.caption), ""] if table.caption else []), *lines])

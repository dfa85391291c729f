"""SVG by hand: boxes, lines and sentences, in colours that follow the reader's light or dark mode.

A picture says its colours by classes (STYLE), which a page that holds several pictures needs once. No meaning rests on colour
alone: what is empty is hollow, what is wasted is hatched, and everything is named in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from convatlas.files import write_text

# Okabe, Ito 2008, "Color Universal Design": blue, orange and green are told apart with every kind of colour vision.
STYLE = """
.atlas { --paper: #ffffff; --ink: #1b1b1b; --soft: #5c5c5c; --line: #8a8a8a; --a: #0072b2; --b: #d55e00; --c: #007a5a;
  --a-fill: #cfe3f1; --b-fill: #f8dcc6; --c-fill: #cdebdf; --none: #f0f0f0; }
@media (prefers-color-scheme: dark) { .atlas { --paper: #16181c; --ink: #ececec; --soft: #b2b2b2; --line: #8d8d8d; --a: #6bb6ea;
  --b: #f0a262; --c: #55cfa6; --a-fill: #1d4460; --b-fill: #613915; --c-fill: #17503e; --none: #26292f; } }
.atlas text { font-family: system-ui, "DejaVu Sans", Verdana, sans-serif; font-size: 13px; fill: var(--ink); }
.atlas .paper { fill: var(--paper); }
.atlas .small { font-size: 11.5px; fill: var(--soft); }
.atlas .head { font-size: 15px; font-weight: 600; }
.atlas .title { font-size: 18px; font-weight: 600; }
.atlas .a { fill: var(--a-fill); stroke: var(--a); }
.atlas .b { fill: var(--b-fill); stroke: var(--b); }
.atlas .c { fill: var(--c-fill); stroke: var(--c); }
.atlas .none { fill: var(--none); stroke: var(--line); }
.atlas .alt { fill: var(--none); stroke: none; }
.atlas .on { fill: var(--a-fill); stroke: none; }
.atlas .frame { fill: none; stroke: var(--line); }
.atlas .strong { fill: none; stroke: var(--ink); stroke-width: 2; }
.atlas .solid { fill: var(--a); stroke: none; }
.atlas .line { stroke: var(--line); }
.atlas .waste { fill: url(#hatch); stroke: var(--line); }
.atlas .hatch { stroke: var(--line); }
"""
HATCH = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line class="hatch" x1="0" y1="0" x2="0" y2="6" stroke-width="1.6"/></pattern></defs>'
)
MARGIN, LEADING, CHAR = 16, 18, 7.0  # pixels; CHAR: the mean width of a letter at 13 px, on the wide side


@dataclass
class Svg:
    """A picture that grows downwards.

    Attributes:
        title: one line, drawn at its head.
        width: pixels; the height is what was drawn.
        y: where the next part begins.
        sections: (head, sentences) of each part: what the picture says to those who cannot see it, or read it in a terminal.
    """

    title: str
    width: int = 720
    y: float = 0
    sections: list[tuple[str, list[str]]] = field(default_factory=lambda: [("", [])])
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.y = self.y or MARGIN
        for line in wrapped(self.title, self.inner, CHAR * 1.55):
            self.y += LEADING + 4
            self.text(MARGIN, self.y - 4, line, "title")

    @property
    def inner(self) -> int:
        """Pixels between the margins."""
        return self.width - 2 * MARGIN

    def box(self, x: float, y: float, width: float, height: float, style: str, tip: str = "") -> None:
        """A rectangle; `tip` is shown by browsers where the pointer rests."""
        size = f'width="{_n(max(width, 0))}" height="{_n(max(height, 0))}"'
        hint = f"><title>{escape(tip)}</title></rect>" if tip else "/>"
        self.parts.append(f'<rect class="{style}" x="{_n(x)}" y="{_n(y)}" {size}{hint}')

    def line(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self.parts.append(f'<line class="line" x1="{_n(x)}" y1="{_n(y)}" x2="{_n(to_x)}" y2="{_n(to_y)}"/>')

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """One line of text whose baseline is y."""
        kind = f' class="{style}"' if style else ""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text{kind} x="{_n(x)}" y="{_n(y)}"{where}>{escape(text)}</text>')

    def head(self, text: str) -> None:
        """The head of a part."""
        self.sections.append((text, []))
        self.y += LEADING + 12
        self.text(MARGIN, self.y, text, "head")
        self.y += 8

    def say(self, text: str) -> None:
        """Sentences over the whole width."""
        self.sections[-1][1].append(text)
        for line in wrapped(text, self.inner, CHAR):
            self.y += LEADING
            self.text(MARGIN, self.y, line)
        self.y += 8

    def caption(self, text: str) -> None:
        """How to read the drawing above; what is said in a terminal leaves it out."""
        self.y += LEADING - 2
        self.text(MARGIN, self.y, text, "small")

    @property
    def markup(self) -> str:
        """The <svg> element, for a page that has STYLE: the title and all that is said are its description."""
        height = round(self.y + MARGIN)
        said = [sentence for _, sentences in self.sections for sentence in sentences]
        label = escape(" ".join([self.title, *said]), quote=True)
        # The paper is drawn, so that the file reads well wherever it is put.
        paper = f'<rect class="paper" x="0" y="0" width="{self.width}" height="{height}"/>'
        size = f'viewBox="0 0 {self.width} {height}" width="{self.width}" height="{height}"'
        style = 'style="max-width: 100%; height: auto"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="atlas" role="img" aria-label="{label}" {size} {style}>'
        return "\n".join([head, HATCH, paper, *self.parts, "</svg>"])

    @property
    def document(self) -> str:
        """The picture as a file of its own."""
        head, rest = self.markup.split("\n", 1)
        return f"{head}\n<style>{STYLE}</style>\n{rest}\n"

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_text(path, self.document)


def wrapped(text: str, width: float, letter: float) -> list[str]:
    """The text in lines of at most `width` pixels, at `letter` pixels a letter."""
    import textwrap

    return textwrap.wrap(text, max(int(width / letter), 12))


def _n(x: float) -> str:
    return f"{x:.2f}".rstrip("0").rstrip(".")

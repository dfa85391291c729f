"""convatlas lecture: the claims of the lecture, computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from convatlas.cli import output
from convatlas.cli.columns import JSON_HELP, Column, show
from convatlas.files import check_writable, write_text

if TYPE_CHECKING:
    from convatlas.study.lecture.atlas import Atlas
    from convatlas.study.lecture.claim import Claim, Finding, Topic

    Answers = list[tuple[Topic, list[tuple[Claim, Finding]]]]

STYLES = {"holds": "green", "roughly": "yellow", "does not hold": "bold red"}


def command(
    topic: Annotated[
        str | None,
        typer.Argument(help="An architecture, a network of it, or 1x1; default: all, in the lecture's order."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the pictures, SVG and PNG, into this folder.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the whole lecture to this file, its pictures beside it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Compute each claim of the lecture and say whether it holds, why, and what was counted."""
    from convatlas.study import lecture

    if markdown is not None and (topic is not None or json):
        raise typer.BadParameter("--markdown writes the whole lecture: give no topic and no --json")
    names = lecture.names() if topic is None else [lecture.check(topic)]
    if markdown is not None:
        check_writable(markdown)
    for folder in (out, markdown.with_suffix("") if markdown else None):
        if folder is not None:
            check_writable(folder, folder=True)
    from convatlas.study import stored
    from convatlas.study.lecture.atlas import Atlas

    atlas = Atlas(stored.load())
    if markdown is not None:
        report(write(atlas, markdown))
    else:
        with output.progress("computing") as progress:
            answers = compute(atlas, names, progress)
        if json:
            output.print_json(as_dict(answers))
        else:
            show_text(answers)
    if out is not None:
        report(draw(atlas, out), to_stderr=json)


def compute(atlas: Atlas, names: list[str], progress: Callable[[str, int, int], None]) -> Answers:
    """Every claim's finding."""
    from convatlas.study import lecture

    answers = []
    for done, topic in enumerate(map(lecture.topic, names)):
        progress(topic.title, done, len(names))
        answers.append((topic, [(claim, claim.compute(atlas)) for claim in topic.claims]))
    return answers


def as_dict(answers: Answers) -> dict[str, Any]:
    """The JSON document."""
    from convatlas.study.lecture import claim

    topics = [
        {
            "topic": topic.name,
            "title": topic.title,
            "networks": list(topic.nets),
            "claims": [claim.as_dict(*pair) for pair in found],
            "not_computed": [{"claim": u.says, "needs": u.needs} for u in topic.unanswered],
        }
        for topic, found in answers
    ]
    return {"verdicts": claim.THRESHOLDS, "topics": topics}


def show_text(answers: Answers) -> None:
    """A heading a topic; under it each claim, its verdict and why, its numbers, what was counted."""
    from convatlas.study.lecture.claim import THRESHOLDS

    console = output.console()
    for topic, found in answers:
        console.print(output.plain(f"{topic.title}\n{'=' * len(topic.title)}\n", "bold"))
        for claim, finding in found:
            show_claim(console, claim, finding)
        if topic.unanswered:
            console.print(output.plain("not computed here:"))
            for u in topic.unanswered:
                console.print(output.plain(f'- "{u.says}": needs {u.needs}'))
            console.print()
    console.print(output.plain(f"verdicts: {THRESHOLDS}"))


def show_claim(console: Console, claim: Claim, finding: Finding) -> None:
    source = f" ({claim.source})" if claim.source else ""
    console.print(output.plain(f'"{claim.says}"{source}', "bold"))
    verdict = output.plain(finding.verdict, STYLES.get(finding.verdict, ""))
    console.print(verdict + output.plain(f": {finding.reason}"))
    columns = [
        Column("", [n.what for n in finding.numbers], text=True),
        Column("computed", [n.found_text for n in finding.numbers]),
    ]
    if finding.judged:
        columns.append(Column("claimed", [n.claimed_text for n in finding.numbers]))
    show(console, columns)
    console.print(output.plain(f"counted: {finding.counted}"))
    console.print()


def write(atlas: Atlas, path: Path) -> list[Path]:
    """The document, and its pictures in a folder of the same name."""
    from convatlas.study.lecture.document import document

    write_text(path, document(atlas, path.stem))
    return [path, *draw(atlas, path.with_suffix(""), ("svg",))]


def draw(atlas: Atlas, folder: Path, formats: tuple[str, ...] = ("svg", "png")) -> list[Path]:
    """The pictures."""
    from convatlas.study.lecture.drawing import save
    from convatlas.study.lecture.pictures import PICTURES

    return [path for picture in PICTURES for path in save(picture.draw(atlas), folder, picture.name, formats)]


def report(paths: list[Path], to_stderr: bool = False) -> None:
    """Says what was written."""
    for path in paths:
        typer.echo(f"wrote {path}", err=to_stderr)

"""convatlas compare: two runs of the benchmarks, or two contestants of one, benchmark by benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from convatlas.cli import output
from convatlas.cli.columns import Column, show

if TYPE_CHECKING:
    from convatlas.results.comparison import Compared, Pair
    from convatlas.results.store import Entry, Results

# What --fail-on takes: verdicts on B, and benchmarks that B lacks.
MISSING = "missing"
FAIL_ON = ("slower", "faster", "unsure", MISSING)
ORDER = ("slower", "unsure", "faster", "same")
STYLES = {"slower": "bold red", "faster": "green", "unsure": "yellow", "same": ""}
WHO = (
    "On layers: triton and cuda (ours), cudnn (PyTorch's operators), cudnn_fused (cuDNN's own fusion). "
    "On networks: ours_graph, ours_eager, ours_plan, cudnn_graph, cudnn_eager, compile."
)
LISTED = 10  # benchmarks of one file alone that are named


def command(
    a: Annotated[
        Path, typer.Argument(metavar="A.json", help="pytest-benchmark's JSON, or a file of benchmarks/results.")
    ],
    b: Annotated[Path | None, typer.Argument(metavar="[B.json]", help="Another run, judged against A.")] = None,
    contestants: Annotated[
        str,
        typer.Option(
            "--contestants", help=f"Two of A's, as in cudnn,triton: the second is judged against the first. {WHO}"
        ),
    ] = "",
    fail_on: Annotated[
        str, typer.Option("--fail-on", help=f"Exit with 1 on one of these, comma-separated: {', '.join(FAIL_ON)}.")
    ] = "",
    threshold: Annotated[
        float, typer.Option("--threshold", help="What a difference must be to matter, as a fraction.")
    ] = 0.03,
    only: Annotated[str, typer.Option("--only", help="List these verdicts alone, comma-separated.")] = "",
    summary: Annotated[
        bool, typer.Option("--summary", help="Sum up by kind of layer, without a line a benchmark.")
    ] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Even across different GPUs or timers.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help='Also write JSON to this file; "-" prints it instead.')
    ] = None,
) -> None:
    """Compare two runs: ratio, 99 % interval and verdict of every benchmark.

    The verdict is on B: "slower" or "faster" where the interval leaves out 1
    and the ratio is beyond the threshold, "same" where the whole interval is
    within it, else "unsure". --fail-on slower heeds a verdict only if it
    survives Holm's correction for the number of benchmarks, so that runs in
    which nothing changed fail at most once in 100.
    """
    if (b is None) == (not contestants):
        raise typer.BadParameter("give either two files, or one file and --contestants X,Y")
    fails, chosen = _words(fail_on, FAIL_ON, "--fail-on"), _words(only, ORDER, "--only")
    from convatlas.files import check_writable, write_json
    from convatlas.results.comparison import compare_contestants, compare_runs
    from convatlas.results.store import load

    if json is not None and str(json) != "-":
        check_writable(json)
    first = load(a)
    if b is None:
        names = [name.strip() for name in contestants.split(",")]
        if len(names) != 2:
            raise typer.BadParameter(f"{contestants!r}, expected two names, X,Y", param_hint="'--contestants'")
        second, compared = None, compare_contestants(first, *names, threshold)
    else:
        second = load(b)
        compared = compare_runs(first, second, threshold, anyway)
    _refuse_unprovable(compared, fails)
    document = as_dict(compared, first, second)
    if json is not None and str(json) == "-":
        output.print_json(document)
    else:
        show_text(compared, first, second, () if summary else chosen or ORDER)
        if json is not None:
            write_json(json, document)
    reasons = failures(compared, fails)
    for reason in reasons:
        typer.echo(f"convatlas: {reason}", err=True)
    if reasons:
        raise typer.Exit(1)


def _words(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if unknown := [word for word in words if word not in known]:
        raise typer.BadParameter(f"{unknown[0]!r}, expected some of {', '.join(known)}", param_hint=f"'{option}'")
    return words


def _refuse_unprovable(compared: Compared, fails: tuple[str, ...]) -> None:
    """Refuses a --fail-on that could never be met."""
    from convatlas.errors import InputError
    from convatlas.results.comparison import CHANGES

    if not compared.provable and set(fails) & set(CHANGES):
        pair = compared.pairs[0]
        raise InputError(
            f"{len(pair.a.seconds)} samples against {len(pair.b.seconds)}: among {len(compared.pairs)} benchmarks no change could "
            f"be proven, expected {compared.samples_needed} of each or more (--fail-on)"
        )


def failures(compared: Compared, fails: tuple[str, ...]) -> list[str]:
    """The reasons for exit code 1, a line for each of `fails` that was met."""
    found = []
    for word in fails:
        if word == MISSING:
            number, example = len(compared.only_a), compared.only_a[:1]
        else:
            alarms = compared.alarms(word)
            number, example = len(alarms), [max(alarms, key=_change).b] if alarms else []
        if number:
            entry = example[0]
            found.append(f"{number} {word}: {entry.case} {entry.contestant}".rstrip() + (", ..." if number > 1 else ""))
    return found


def _change(pair: Pair) -> float:
    return max(pair.found.ratio, 1 / pair.found.ratio)


def as_dict(compared: Compared, first: Results, second: Results | None) -> dict[str, Any]:
    """The JSON document."""
    return {
        "a": about(compared.names[0], first),
        "b": about(compared.names[1], second or first),
        "threshold": compared.threshold,
        "benchmarks": [
            {
                "suite": pair.a.suite,
                "case": pair.a.case,
                "contestants": [pair.a.contestant, pair.b.contestant],
                "a_seconds": pair.a.median,
                "b_seconds": pair.b.median,
                "samples": [len(pair.a.seconds), len(pair.b.seconds)],
                "ratio": pair.found.ratio,
                "low": pair.found.low,
                "high": pair.found.high,
                "verdict": pair.found.verdict,
                "p": pair.p,
                "proven": pair.proven,
            }
            for pair in compared.pairs
        ],
        "only_a": [_name(entry) for entry in compared.only_a],
        "only_b": [_name(entry) for entry in compared.only_b],
        "kinds": {
            kind: {"verdicts": part.counts, "geometric_mean": part.mean}
            for kind, part in compared.kinds.items()
            if kind
        },
        "verdicts": compared.counts,
        "geometric_mean": compared.mean,
    }


def _name(entry: Entry) -> dict[str, str]:
    return {"suite": entry.suite, "case": entry.case, "contestant": entry.contestant}


def about(name: str, results: Results) -> dict[str, Any]:
    """What is compared, and what it was measured on."""
    devices = sorted({entry.device for entry in results.entries})
    timers = sorted({entry.timer for entry in results.entries})
    when = {key: results.head[key] for key in ("date", "datetime", "commit") if key in results.head}
    return {
        "name": name,
        "file": str(results.path),
        "devices": devices,
        "timers": timers,
        **when,
        "versions": results.versions,
    }


def micro(seconds: float) -> str:
    """ "1.23 us", "12.3 ms", "1.23 s"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{output.number(seconds * factor)} {unit}"
    return f"{output.number(seconds * 1e6)} us"


def show_text(compared: Compared, first: Results, second: Results | None, chosen: tuple[str, ...]) -> None:
    """Prints what is compared, a table by kind of layer and one for each way of timing, what only one of them has, and counts."""
    console = output.console()
    for letter, name, results in zip("AB", compared.names, (first, second or first)):
        console.print(output.plain(f"{letter}: {headline(name, results)}"))
    for line in differing(first, second) if second else ():
        console.print(output.plain(line, "yellow"))
    dropped = by_kind(console, compared)
    listed = sorted((p for p in compared.pairs if p.found.verdict in chosen), key=lambda p: -p.found.ratio)
    settings = dict.fromkeys((p.a.suite, p.a.how) for p in compared.pairs)
    for setting in settings:
        pairs = [p for p in listed if (p.a.suite, p.a.how) == setting]
        if pairs:
            title = ": ".join(filter(None, setting))
            console.print(output.plain(f"\n{title}\n" if title else "", "bold"))
            dropped = list(dict.fromkeys([*dropped, *show(console, columns(pairs))]))
    for letter, entries in (("A", compared.only_a), ("B", compared.only_b)):
        only(console, letter, entries)
    console.print()
    totals(console, compared)
    if dropped:
        names = ", ".join(dropped)
        console.print(
            output.plain(f"not shown for want of room: {names} (a wider terminal, a pipe and --json have them)")
        )


def by_kind(console: Console, compared: Compared) -> list[str]:
    """Prints a row for each kind of layer; nothing where there is only one kind.

    Returns the headers that the terminal had no room for.
    """
    kinds = compared.kinds
    if len(kinds) < 2:
        return []
    rows = {kind or "other": part for kind, part in kinds.items()} | {"all": compared}
    counts = [Column(verdict, [str(part.counts[verdict]) for part in rows.values()], 1) for verdict in compared.counts]
    console.print()
    return show(
        console,
        [
            Column("kind of layer", list(rows), text=True),
            Column("benchmarks", [str(len(part.pairs)) for part in rows.values()], 2),
            Column("mean B/A", [f"{part.mean:.3f}" for part in rows.values()]),
            *counts,
        ],
    )


def headline(name: str, results: Results) -> str:
    """One line: the file or contestant, device, timer, date, commit."""
    said = about(name, results)
    date = str(said.get("date") or said.get("datetime") or "")[:10]
    parts = [", ".join(said["devices"]), " and ".join(said["timers"]), date, str(said.get("commit", ""))[:12]]
    return ", ".join([name, *filter(None, parts)])


def differing(first: Results, second: Results) -> list[str]:
    """The versions in which the two differ."""
    a, b = first.versions, second.versions
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    if not names or not a or not b:
        return []
    return ["versions differ: " + ", ".join(f"{n} {a.get(n, 'none')} -> {b.get(n, 'none')}" for n in names)]


def columns(pairs: list[Pair]) -> list[Column]:
    """A row a benchmark; "proven" is the verdict's star."""
    found = [pair.found for pair in pairs]
    names = [pair.a.contestant if pair.a.contestant == pair.b.contestant else "" for pair in pairs]
    described: Callable[[Pair], str] = lambda pair: pair.a.what if pair.a.contestant else pair.a.case  # noqa: E731
    return [
        Column("benchmark", [described(pair) for pair in pairs], text=True),
        *([Column("contestant", names, text=True)] if any(names) and len(set(names)) > 1 else []),
        Column("A", [micro(pair.a.median) for pair in pairs], 2),
        Column("B", [micro(pair.b.median) for pair in pairs], 2),
        Column("B/A", [f"{c.ratio:.3f}" for c in found]),
        Column("99 %", [f"{c.low:.3f} to {c.high:.3f}" for c in found], 3),
        Column("verdict", [c.verdict + "*" * pair.proven for c, pair in zip(found, pairs)]),
    ]


def only(console: Console, letter: str, entries: list[Entry]) -> None:
    if entries:
        more = f", and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
        names = "; ".join(f"{entry.case} {entry.contestant}".strip() for entry in entries[:LISTED])
        console.print(output.plain(f"\nonly in {letter}, {len(entries)}: {names}{more}"))


def totals(console: Console, compared: Compared) -> None:
    """Counts and the geometric mean; what the star means."""
    counts = ", ".join(f"{number} {verdict}" for verdict, number in compared.counts.items())
    proven = sum(pair.proven for pair in compared.pairs)
    worst = next((v for v in ORDER if v != "unsure" and compared.counts[v]), "unsure")
    console.print(
        output.plain(
            f"B against A, {len(compared.pairs)} benchmarks: {counts}; geometric mean of B/A {compared.mean:.3f} "
            f"(threshold {100 * compared.threshold:g} %)",
            STYLES[worst],
        )
    )
    if compared.counts["slower"] or compared.counts["faster"]:
        correction = f"Holm's correction for {len(compared.pairs)} benchmarks"
        console.print(output.plain(f"* {proven} of them also survive {correction}: --fail-on heeds these"))
    if compared.provable < len(compared.pairs):
        console.print(
            output.plain(
                f"{len(compared.pairs) - compared.provable} without samples enough for that, whatever they show: "
                f"{compared.samples_needed} of each are needed"
            )
        )

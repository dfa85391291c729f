"""convatlas verify all: every net against the reference, a row a net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convatlas.cli import output
from convatlas.cli.runtime import ran_on

if TYPE_CHECKING:
    from rich.console import Console

    from convatlas.verify.verify import Logits
    from convatlas.verify.verify_all import NetResult


def run(size: int | None, batch: int, dtype: str, backend: str, json: bool) -> bool:
    """Verifies all nets and prints a row as each ends, or JSON at the end. Returns whether all is well.

    After an interrupt it prints what was found before it, and then raises KeyboardInterrupt.
    """
    from convatlas.verify import verify_all as whole
    from convatlas.verify.device import device_for, interpreted
    from convatlas.verify.verify import Interrupted

    device = device_for(backend, dtype)
    where = {"backend": backend, "device": device.type, "interpreted": interpreted(backend, device)}
    console, interrupted = output.console(), None
    try:
        if not json:
            console.print(output.plain(f"all networks, {dtype}: {ran_on(*where.values())}\n\n{heading(console)}"))
        with output.progress("verifying all networks") as show:

            def ended(result: NetResult) -> None:
                if not json:
                    with show.hidden():
                        show_row(console, result)

            results = whole.verify_all(None, size, batch, dtype, backend, show, ended=ended)
    except KeyboardInterrupt as stop:
        interrupted = stop if isinstance(stop, Interrupted) else Interrupted([], whole.names())
        results = interrupted.found
    if json:
        output.print_json({"dtype": dtype, **where, "complete": interrupted is None, **as_dict(results)})
    else:
        show_end(console, results, interrupted.left if interrupted else [])
    if interrupted:
        raise KeyboardInterrupt
    return all(r.ok for r in results)


def as_dict(results: list[NetResult]) -> dict[str, Any]:
    """The JSON document, without the options that were asked for."""
    return {
        "ok": all(r.ok for r in results),
        "nets": [
            {
                "net": r.name,
                "input_shape": list(r.input_shape),
                "ok": r.ok,
                "layers": r.layers,
                "new_kinds": len(r.checks),
                "worst": r.worst,
                "wrong_layers": [
                    {
                        "path": check.path,
                        "op": check.call.op,
                        "shape": str(check.call.spec),
                        "detail": check.report.detail,
                    }
                    for check in r.checks
                    if not check.report.ok
                ],
                "logits": None if r.logits is None else logits_as_dict(r.logits),
                "seconds": r.seconds,
            }
            for r in results
        ],
        "seconds": sum(r.seconds for r in results),
    }


def logits_as_dict(logits: Logits) -> dict[str, Any]:
    """What JSON says of a net's outputs."""
    return {
        "ok": logits.ok,
        "rms_error": logits.error,
        "rms_error_of_rounding_alone": logits.yardstick,
        "limit": logits.limit,
        "top1_agrees": logits.agree,
        "images": logits.images,
    }


def cells(
    console: Console, name: str, counts: list[str], worst: str, logits: list[str], seconds: str, verdict: str
) -> str:
    """One line of a table whose rows are printed as they come; a narrow terminal gets name, error, time and verdict."""
    if console.width < output.NARROW:
        return f"{name:18} {worst:>8} {seconds:>6} {verdict}".rstrip()
    numbers = [f"{cell:>9}" for cell in (*counts, worst, *logits)]
    return f"{name:18}{''.join(numbers)} {seconds:>7}  {verdict}".rstrip()


def heading(console: Console) -> str:
    """The names of the columns."""
    return cells(console, "network", ["pixels", "layers", "new"], "of bound", ["logits", "allowed"], "s", "")


def show_row(console: Console, r: NetResult) -> None:
    counts = [str(r.input_shape[-1]), str(r.layers), str(len(r.checks))]
    logits = [output.number(r.logits.error), output.number(r.logits.limit)] if r.logits else ["-", "-"]
    worst, verdict = output.number(r.worst) if r.checks else "-", "ok" if r.ok else "WRONG"
    line = cells(console, r.name, counts, worst, logits, f"{r.seconds:.1f}", verdict)
    console.print(output.plain(line, "" if r.ok else "bold red"))


def show_end(console: Console, results: list[NetResult], left: list[str]) -> None:
    """What is wrong, what was checked, the verdict; `left` are nets that an interrupt left undone."""
    for r in results:
        if r.first_wrong is not None:
            console.print(output.plain(f"\n{r.name} {r.first_wrong}", "bold red"))
        elif r.logits is not None and not r.ok:
            console.print(output.plain(f"\n{r.name}: every new layer is right, the logits are not", "bold red"))
    kinds, layers = sum(len(r.checks) for r in results), sum(r.layers for r in results)
    console.print(
        output.plain(
            f"\n{kinds} kinds of layers among {layers}, each checked where it is new; of bound: the largest error over "
            "its bound; logits are root mean square errors, allowed is four times what rounding each layer alone makes"
        )
    )
    wrong = [r.name for r in results if not r.ok and (r.first_wrong is not None or r.logits is not None)]
    seconds = sum(r.seconds for r in results)
    if left:
        done = sum(r.logits is not None for r in results)
        line = f"interrupted: {done} networks done, NOT verified: {', '.join(dict.fromkeys([*wrong, *left]))}"
        console.print(output.plain(line, "bold red"))
    elif wrong:
        console.print(output.plain(f"NOT verified: {', '.join(wrong)}; {seconds:.0f} s", "bold red"))
    else:
        console.print(output.plain(f"{len(results)} networks verified in {seconds:.0f} s", "green"))

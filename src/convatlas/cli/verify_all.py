"""convatlas verify all: every net against the reference, a row a net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convatlas.cli import output
from convatlas.cli.runtime import ran_on

if TYPE_CHECKING:
    from convatlas.engine.verify_all import NetResult


def run(size: int | None, batch: int, dtype: str, backend: str, json: bool) -> bool:
    """Verifies all nets and prints what was found; whether all is well."""
    from convatlas.engine.device import device_for, interpreted
    from convatlas.engine.verify_all import verify_all

    with output.progress("verifying all networks") as show:
        results = verify_all(None, size, batch, dtype, backend, show)
    device = device_for(backend, dtype)
    where = {"backend": backend, "device": device.type, "interpreted": interpreted(backend, device)}
    if json:
        output.print_json({"dtype": dtype, **where, **as_dict(results)})
    else:
        output.console().print(output.plain(f"all networks, {dtype}: {ran_on(*where.values())}\n"))
        show_text(results)
    return all(r.ok for r in results)


def as_dict(results: list[NetResult]) -> dict[str, Any]:
    """The JSON document, but for what was asked."""
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
                "logits": {
                    "ok": r.logits.ok,
                    "rms_error": r.logits.error,
                    "rms_error_of_rounding_alone": r.logits.yardstick,
                    "limit": r.logits.limit,
                    "top1_agrees": r.logits.agree,
                    "images": r.logits.images,
                },
                "seconds": r.seconds,
            }
            for r in results
        ],
        "seconds": sum(r.seconds for r in results),
    }


def show_text(results: list[NetResult]) -> None:
    """A row a net, what is wrong, the verdict."""
    console = output.console()
    wide = console.width >= output.NARROW
    counts = [("pixels", "right"), ("layers", "right"), ("new", "right")] if wide else []
    logits = [("logits", "right"), ("allowed", "right")]
    table = output.table("network", *counts, ("error/\nbound", "right"), *logits, ("s", "right"), "")
    for r in results:
        numbers = [str(r.input_shape[-1]), str(r.layers), str(len(r.checks))] if wide else []
        numbers += [
            output.number(r.worst) if r.checks else "",
            output.number(r.logits.error),
            output.number(r.logits.limit),
        ]
        verdict = "ok" if r.ok else "WRONG"
        table.add_row(output.plain(r.name), *numbers, f"{r.seconds:.1f}", verdict, style="" if r.ok else "bold red")
    console.print(table)

    for r in results:
        if r.first_wrong is not None:
            console.print(output.plain(f"\n{r.name} {r.first_wrong}", "bold red"))
        elif not r.ok:
            console.print(output.plain(f"\n{r.name}: every new layer is right, the logits are not", "bold red"))
    kinds, layers = sum(len(r.checks) for r in results), sum(r.layers for r in results)
    console.print(
        output.plain(
            f"\n{kinds} kinds of layers among {layers}, each checked where it is new; logits are root mean square errors, "
            "allowed is four times what rounding each layer alone makes"
        )
    )
    wrong, seconds = [r.name for r in results if not r.ok], sum(r.seconds for r in results)
    if wrong:
        console.print(output.plain(f"NOT verified: {', '.join(wrong)}; {seconds:.0f} s", "bold red"))
    else:
        console.print(output.plain(f"{len(results)} networks verified in {seconds:.0f} s", "green"))

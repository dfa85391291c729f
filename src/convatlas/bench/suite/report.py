"""The summary that ends a run: what was measured on what, what failed, where we stand against cuDNN, what the budget cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from convatlas.bench.stats import compare, geometric_mean
from convatlas.bench.suite.stages import STAGES
from convatlas.bench.suite.state import STATE, read_json

MOST = 10_000  # characters
OURS, PEERS = ("triton", "cuda"), ("cudnn", "cudnn_fused")
REHEARSAL = "REHEARSAL on a CPU with an invented clock: no number below is a measurement."


def failed(out: Path) -> bool:
    """Whether a test failed, compute-sanitizer found an error, or a stage left no result."""
    stages = read_json(out / STATE)["stages"].values()
    tests = read_json(out / "tests.json") or {}
    watched = [tool for tool in tests.get("sanitizer", {}).values() if isinstance(tool, dict)]
    return (
        any(entry["status"] == "failed" for entry in stages)
        or any(wrong(read_json(out / name) or {}) for name in ("layers.json", "networks.json"))
        or bool(tests.get("failed"))
        or any(tool["status"] == "errors" for tool in watched)
    )


def summary(out: Path) -> str:
    """Fewer than MOST characters: the long parts come last and are cut there."""
    state = read_json(out / STATE) or {"rehearsal": False, "stages": {}}
    found = {stage.name: read_json(out / stage.file) for stage in STAGES}
    lines = [REHEARSAL, ""] if state["rehearsal"] else []
    lines += [*machine(found["ceilings"]), ""]
    lines += [*stages(state["stages"]), ""]
    for part, of in (
        (tests, "tests"),
        (layers, "layers"),
        (networks, "networks"),
        (profiles, "profile"),
        (tuned, "tuning"),
    ):
        if found[of]:
            lines += [*part(found[of]), ""]
    return clipped(lines)


def clipped(lines: list[str]) -> str:
    """The lines that fit into MOST, and a last one that says how many did not."""
    text, kept = "", 0
    for line in lines:
        if len(text) + len(line) + 1 > MOST - 60:
            break
        text, kept = f"{text}{line}\n", kept + 1
    return text if kept == len(lines) else f"{text}... {len(lines) - kept} more lines: see the JSON files\n"


def machine(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return ["no ceilings were measured"]
    clocks = found.get("clocks") or {}
    rates = ", ".join(f"{mode} {rate / 1e12:.3g}" for mode, rate in found["matmul_flops_per_s"].items())
    return [
        f"GPU: {found.get('gpu') or 'none'}, driver {found.get('driver') or 'unknown'}",
        "clocks: " + ", ".join(f"{name} {value}" for name, value in clocks.items() if value is not None),
        "versions: " + ", ".join(f"{name} {value}" for name, value in (found.get("versions") or {}).items()),
        f"ceilings: copy {found['copy_bytes_per_s'] / 1e12:.2f} TB/s, matmul TFLOP/s {rates}, launch "
        f"{found['launch_seconds'] * 1e6:.1f} us",
    ]


def stages(state: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["stages:"]
    for stage in STAGES:
        entry = state.get(stage.name, {"status": "not begun", "seconds": 0.0, "reason": ""})
        reason = f": {entry['reason']}" if entry["reason"] else ""
        lines.append(f"  {stage.name:<9} {entry['status']:<8} {entry['seconds']:5.0f} s{reason[:200]}")
    return lines


def tests(found: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{found.get(name, 0)} {name}" for name in ("passed", "failed", "skipped"))
    lines = [f"tests: {counts} in {found.get('seconds', 0):.0f} s{'' if found.get('complete') else ', not complete'}"]
    for tool, entry in found["sanitizer"].items():
        lines.append(f"  sanitizer: {entry}" if isinstance(entry, str) else f"  {tool}: {_tool(entry)}")
    failures = found.get("failures", [])
    for test, cases in Counter(name.split("[")[0] for name in failures).most_common(12):
        some = [name.split("[", 1)[-1].rstrip("]") for name in failures if name.split("[")[0] == test][:8]
        lines.append(f"  FAILED {test}: {cases} cases: {', '.join(some)}{' ...' * (cases > len(some))}"[:400])
    return lines


def _tool(entry: dict[str, Any]) -> str:
    what = f"{entry['errors']} errors" if "errors" in entry else entry.get("reason", "")
    return f"{entry['status']}, {what}, {entry['seconds']:.0f} s {'; '.join(entry.get('first', []))[:300]}".rstrip()


def wrong(found: dict[str, Any]) -> list[str]:
    """Lines on what was computed wrongly, and therefore has no time."""
    messages = {name: text for step in found.get("failures", {}).values() for name, text in step.items()}
    return [f"  WRONG {name}: {text}"[:300] for name, text in messages.items()]


def cases(found: dict[str, Any]) -> Iterator[dict[str, dict[str, Any]]]:
    """Entries by contestant, one dictionary a case, in the file's order."""
    grouped: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for entry in found["benchmarks"]:
        key = entry["fullname"].split("::")[0], str(entry.get("group"))
        grouped.setdefault(key, {})[entry["extra_info"]["contestant"]] = entry
    yield from grouped.values()


def seconds(entry: dict[str, Any]) -> float:
    return median(entry["stats"]["data"])


def family(entry: dict[str, Any]) -> str:
    """Of ops, from the file that times them: benchmarks/bench_pool.py is "pool"; with the dtype and the batch size."""
    info = entry["extra_info"]
    stem = Path(entry["fullname"].split("::")[0]).stem.removeprefix("bench_")
    return f"{stem} {info['dtype']} batch {info['batch']}"


def layers(found: dict[str, Any]) -> list[str]:
    """Per family the geometric means, and the ten layers that are furthest behind the quicker peer."""
    against: dict[str, dict[str, list[tuple[float, str]]]] = {}
    counted: Counter[str] = Counter()
    worst = []
    for case in cases(found):
        ours = [case[name] for name in OURS if name in case]
        if not ours:
            continue
        best = min(ours, key=seconds)
        of = family(best)
        counted[of] += 1
        for peer in (name for name in PEERS if name in case):
            mine, theirs = (entry["stats"]["data"] for entry in (best, case[peer]))
            verdict = compare(mine, theirs, paired=len(mine) == len(theirs)).verdict  # timed by turns
            ratio = seconds(case[peer]) / seconds(best)
            against.setdefault(of, {}).setdefault(peer, []).append((ratio, verdict))
        rivals = [seconds(case[name]) for name in PEERS if name in case]
        if rivals:
            worst.append((min(rivals) / seconds(best), best, min(rivals)))
    lines = ["layers: geometric mean of cuDNN's time over that of our quicker backend; above 1, ours is the quicker"]
    for of, number in counted.items():
        parts = []
        for peer, rows in against.get(of, {}).items():
            verdicts = Counter(verdict for _, verdict in rows)
            level = verdicts["same"] + verdicts["unsure"]
            parts.append(
                f"{peer} {geometric_mean([ratio for ratio, _ in rows]):.2f} of {len(rows)} "
                f"({verdicts['faster']} won, {level} level or unsure, {verdicts['slower']} lost)"
            )
        lines.append(f"  {of}: {number} layers; {'; '.join(parts) or 'no peer'}")
    lines.append("the ten furthest behind:")
    for ratio, entry, rival in sorted(worst, key=lambda row: row[0])[:10]:
        info = entry["extra_info"]
        times = f"{info['contestant']} {seconds(entry) * 1e6:.1f} us, peer {rival * 1e6:.1f} us"
        what = f"{info['op']} {info['spec']} {info['epilogue']}, {info['dtype']} batch {info['batch']}"
        lines.append(f"  {ratio:.2f}  {what}: {times}"[:200])
    return [*lines, *wrong(found)[:10]]


def networks(found: dict[str, Any]) -> list[str]:
    lines = ["networks: milliseconds by contestant"]
    for case in cases(found):
        group = next(iter(case.values()))["group"]
        times = ", ".join(f"{name} {seconds(entry) * 1e3:.3f}" for name, entry in case.items())
        both = [case[name] for name in ("cudnn_graph", "ours_graph") if name in case]
        ratio = f"; cudnn/ours in graphs {seconds(both[0]) / seconds(both[1]):.2f}" if len(both) == 2 else ""
        lines.append(f"  {group}: {times}{ratio}"[:300])
    return [*lines, *wrong(found)[:10]]


def profiles(found: dict[str, Any]) -> list[str]:
    lines = ["profile: milliseconds; layers alone and cold, then the whole network"]
    for net, entry in found["nets"].items():
        whole = ", ".join(f"{form} {value * 1e3:.3f}" for form, value in entry["network"].items())
        peers = "" if entry["peer_sum"] is None else f", cuDNN's {entry['peer_sum'] * 1e3:.3f}"
        lines.append(
            f"  {net} batch {entry['batch']}: our layers {entry['layers_sum'] * 1e3:.3f}{peers}, bound "
            f"{entry['bound_sum'] * 1e3:.3f}; {whole or 'no whole-network time'}"
        )
        for layer in entry["layers"][:3]:
            lines.append(
                f"    {layer['paths'][0]} x{len(layer['paths'])} {layer['op']} {layer['spec']}: "
                f"{layer['share_of_bound']:.0%} of its bound ({layer['binds']})"
            )
    return lines


def tuned(found: dict[str, Any]) -> list[str]:
    regrets = [entry["regret"] for entry in found["layers"]]
    lines = [
        f"tuning: {len(regrets)} of {found['of']} layers, the model's choice takes {geometric_mean(regrets):.3f} times the best "
        f"candidate's time (geometric mean), at most {max(regrets):.2f}"
    ]
    for entry in sorted(found["layers"], key=lambda entry: -entry["regret"])[:5]:
        lines.append(f"  {entry['regret']:.2f}  {entry['spec']} {entry['epilogue']}: best {entry['best']}")
    wrong = sum(len(entry["wrong"]) for entry in found["layers"])
    return [*lines, f"  {wrong} candidates computed something else"] if wrong else lines

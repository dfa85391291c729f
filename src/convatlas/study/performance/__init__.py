"""docs/performance.md, its pictures, a page a network, all layers as CSV, and the README's table, from each GPU's newest result.

data            one GPU's result as the page wants it
document, *.j2  the texts
pictures        the SVG files
"""

from __future__ import annotations

from pathlib import Path

from convatlas.results.store import newest
from convatlas.study.performance.data import NETWORKS, Report
from convatlas.study.performance.document import block, headline, layers_csv, network_page, page


def reports(root: Path) -> list[Report]:
    """The newest results of each GPU below `root`/benchmarks/results, the newest measurement first."""
    folder = root / "benchmarks" / "results"
    layers, networks, found = newest(folder, "layers"), newest(folder, NETWORKS), []
    for name, results in newest(folder).items():
        main, whole = layers.get(name) or results, networks.get(name)
        found.append(Report(name, main, whole if whole and whole.path != main.path else None))
    return sorted(found, key=lambda report: (report.results.head["date"], report.slug), reverse=True)


def texts(root: Path, found: list[Report]) -> dict[Path, str]:
    """What docs/performance.md, the files of docs/performance and README.md are to hold."""
    readme, folder = root / "README.md", root / "docs" / "performance"
    wanted = {
        root / "docs" / "performance.md": page(found),
        readme: block(readme.read_text(encoding="utf-8"), headline(found)),
    }
    for report in found:
        if report.suites:
            wanted[folder / f"{report.slug}-layers.csv"] = layers_csv(report)
        wanted |= {folder / f"{report.slug}-{net}.md": network_page(report, net) for net in report.nets}
    return wanted


def update(root: Path) -> list[Path]:
    """Writes the texts and the pictures, removes what no result gives any more, and returns the paths of what it wrote.

    Raises InputError where the README has no markers, or a result cannot be read.
    """
    from convatlas.files import write_text
    from convatlas.study.performance.pictures import draw

    found = reports(root)
    wanted, written = texts(root, found), []
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            written.append(path)
    folder = root / "docs" / "performance"
    pictures = [path for report in found for path in draw(report, folder)]
    for stale in set(folder.glob("*.*")) - set(pictures) - set(wanted):
        stale.unlink()
    return written + pictures

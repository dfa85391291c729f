"""docs/performance.md, its pictures and the README's table, from the newest committed result of each GPU.

data       what raced on a layer: families, the choice of `auto`, who is held against whom
tables     Markdown of the tables
document   the page and the README's block
pictures   the SVG files
"""

from __future__ import annotations

from pathlib import Path

from convatlas.bench.page.data import Report
from convatlas.bench.page.document import block, headline, page
from convatlas.bench.results import newest


def reports(root: Path) -> list[Report]:
    """The newest result of each GPU below `root`/benchmarks/results, the newest measurement first."""
    found = [Report(name, results) for name, results in newest(root / "benchmarks" / "results").items()]
    return sorted(found, key=lambda report: (report.date, report.slug), reverse=True)


def texts(root: Path, found: list[Report]) -> dict[Path, str]:
    """What docs/performance.md and README.md are to hold."""
    readme = root / "README.md"
    return {
        root / "docs" / "performance.md": page(found),
        readme: block(readme.read_text(encoding="utf-8"), headline(found)),
    }


def update(root: Path) -> list[Path]:
    """Writes the page, the README's table and the pictures; the paths of those that changed or were made anew.

    Raises InputError where the README has no markers, or a result cannot be read.
    """
    from convatlas.bench.page.pictures import draw
    from convatlas.files import write_text

    found = reports(root)
    written = []
    for path, text in texts(root, found).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            written.append(path)
    folder = root / "docs" / "performance"
    pictures = [path for report in found for path in draw(report, folder)]
    for stale in set(folder.glob("*.svg")) - set(pictures):
        stale.unlink()
    return written + pictures

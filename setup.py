"""Maps the repository's folders into the one import package `convatlas`; everything else stands in pyproject.toml.

The folders kernels/, nets/ and reference/ stay at the root, where a reader looks for them, but are never installed as
top-level packages: other projects on PyPI own those names.
"""

from pathlib import Path

from setuptools import setup

ROOTS = {
    "convatlas": "src/convatlas",
    "convatlas.kernels": "kernels",
    "convatlas.nets": "nets",
    "convatlas.reference": "reference",
}


def packages() -> list[str]:
    """Every folder below the roots that holds an __init__.py, under its import name."""
    here = Path(__file__).parent
    found = []
    for name, folder in ROOTS.items():
        for init in sorted((here / folder).rglob("__init__.py")):
            parts = init.parent.relative_to(here / folder).parts
            found.append(".".join((name, *parts)))
    return found


setup(
    packages=packages(),
    package_dir=ROOTS,
    package_data={"": ["*.cu", "*.cuh", "*.hpp", "*.j2", "*.json", "py.typed"]},
)

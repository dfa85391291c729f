"""What a user installs: a wheel holds every package under its import name, and works where the repository is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import convatlas

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("wheel")
FOLDERS = ("kernels", "nets", "reference")
LINKS = tuple(f"src/convatlas/{folder}" for folder in FOLDERS)


def run_python(code: str, cwd: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Runs `code` in `cwd` in a fresh interpreter with `path` in front of what is installed."""
    script = f"import sys; sys.path[:0] = {[str(p) for p in path]!r}\n{code}"
    return subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, timeout=120)


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--quiet", "--no-deps", "--disable-pip-version-check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, with the links of `make dev` and a file of each kind of package data."""
    tree = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", *FOLDERS):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for link in LINKS:
        if not (tree / link).exists():
            (tree / link).symlink_to(Path("../..", Path(link).name))
    for suffix in ("cu", "cuh", "hpp"):
        (tree / "kernels" / f"probe.{suffix}").write_text("// package data\n")
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, tree)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("target")
    pip("install", "--target", target, wheel)
    return target


def modules(tree: Path) -> set[str]:
    """Every .py file of the package by its name in a wheel; what lies behind the links of `make dev` counts once."""
    found = set()
    for folder in ("src/convatlas", *FOLDERS):
        for path in (tree / folder).rglob("*.py"):
            if not any(tree / link in path.parents for link in LINKS):
                found.add(f"convatlas/{path.relative_to(tree).as_posix()}".replace("/src/convatlas", ""))
    return found


def test_wheel_holds_every_module_under_its_import_name(tree: Path, wheel: Path) -> None:
    """A folder of modules without __init__.py imports from the tree, but would be missing here."""
    assert {name for name in names(wheel) if name.endswith(".py")} == modules(tree)


def test_wheel_holds_package_data_and_nothing_at_the_top_level_but_convatlas(wheel: Path) -> None:
    held = names(wheel)
    data = {
        "convatlas/py.typed",
        "convatlas/study/summaries.json",
        *(f"convatlas/kernels/probe.{suffix}" for suffix in ("cu", "cuh", "hpp")),
    }
    assert data <= held
    assert {name.split("/")[0] for name in held} == {"convatlas", f"convatlas-{convatlas.__version__}.dist-info"}


def test_source_distribution_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    result = run_python(code, tree)
    assert result.returncode == 0, result.stderr
    pip("wheel", "--no-build-isolation", "--wheel-dir", tmp_path, next(tmp_path.glob("*.tar.gz")))
    assert names(next(tmp_path.glob("*.whl"))) == names(wheel)


def test_installed_wheel_imports_outside_the_tree(target: Path, tmp_path: Path) -> None:
    code = (
        "import convatlas, convatlas.specs, convatlas.reference, convatlas.kernels, convatlas.nets\n"
        "for name in ('', '.specs', '.reference', '.kernels', '.nets'):\n"
        "    print(sys.modules['convatlas' + name].__file__)"
    )
    result = run_python(code, tmp_path, target)
    assert result.returncode == 0, result.stderr
    files = result.stdout.split()
    assert len(files) == 5 and all(Path(file).is_relative_to(target) for file in files), files


@pytest.mark.parametrize("backend", ["numpy", "cuda"])
def test_installed_wheel_computes_outside_the_tree(backend: str, target: Path, tmp_path: Path) -> None:
    """ "cuda" compiles its .cu files and headers, so they must be in the wheel."""
    code = (
        "import torch, convatlas\n"
        "x, w = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 3, 3)\n"
        f"y = convatlas.conv2d(x, w, None, 1, 1, activation='relu6', backend={backend!r})\n"
        "print(tuple(y.shape), y.max().item(), convatlas.__file__)"
    )
    result = run_python(code, tmp_path, target)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"(1, 4, 3, 3) 6.0 {target}")


def test_versions_agree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    assert f"\nVersion: {convatlas.__version__}\n" in text


@pytest.mark.parametrize("folder", FOLDERS)
def test_bare_folder_refuses_import(folder: str) -> None:
    """From the repository's root `import kernels` would be a second copy, whose ops would register twice."""
    result = run_python(f"import {folder}", ROOT, ROOT)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and f"convatlas.{folder}" in last


def test_links_of_make_dev_give_the_same_modules(tree: Path, tmp_path: Path) -> None:
    """With the links, src/ alone on the path is the whole package; `make gpu` runs that way."""
    code = (
        "import convatlas.kernels, convatlas.reference; print(convatlas.kernels.__name__, convatlas.kernels.__file__)"
    )
    result = run_python(code, tmp_path, tree / "src")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["convatlas.kernels", str(tree / "src/convatlas/kernels/__init__.py")]


def test_import_is_quick_and_imports_no_backend(tmp_path: Path) -> None:
    """`import convatlas` works where torch, Triton and CuPy are missing, and costs a command line nothing."""
    code = (
        "import time; start = time.perf_counter(); import convatlas; print(time.perf_counter() - start)\n"
        "print(*sorted({'torch', 'numpy', 'triton', 'cupy', 'rich', 'typer'} & set(sys.modules)))"
    )
    runs = [run_python(code, tmp_path) for _ in range(3)]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    assert runs[0].stdout.splitlines()[1] == ""
    assert min(float(run.stdout.splitlines()[0]) for run in runs) < 0.1

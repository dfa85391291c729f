"""What holds for the repository as a whole: files of one idea, tests that test, imports that go one way, true documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas.cli import main

ROOT = Path(__file__).resolve().parents[2]
CODE = ("src/convatlas", "kernels", "nets", "reference", "tests", "benchmarks", "docs")
LINES = 450


def files(*suffixes: str, folders: tuple[str, ...] = CODE) -> list[Path]:
    """The files below `folders` with one of the suffixes, those behind a link of `make dev` not counted."""
    found = [p for folder in folders for suffix in suffixes for p in (ROOT / folder).rglob(f"*{suffix}")]
    return sorted(p for p in found if p == p.resolve() and "__pycache__" not in p.parts)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_of_code_is_long() -> None:
    lengths = {relative(p): len(p.read_text().splitlines()) for p in files(".py", ".cu", ".cuh", ".hpp")}
    assert not {name: n for name, n in lengths.items() if n > LINES}, f"over {LINES} lines: more than one idea"


def called(node: ast.AST) -> str:
    """The name of the function that a call calls, without what it is an attribute of; "" for any other node."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def asserting(functions: list[ast.FunctionDef]) -> set[str]:
    """Names of the functions that assert: themselves, by pytest or NumPy or torch, or by calling one that does."""
    names = {"raises", "warns", "fail", "opcheck", "gradcheck"}
    while True:
        found = {
            function.name
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.Assert) or called(node) in names or called(node).startswith("assert_")
        }
        if found <= names:
            return names
        names |= found


def test_every_test_asserts_something() -> None:
    trees = {relative(path): ast.parse(path.read_text()) for path in files(".py", folders=("tests", "benchmarks"))}
    functions = [(path, f) for path, tree in trees.items() for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)]
    names = asserting([function for _, function in functions])
    idle = [
        f"{path}:{f.lineno} {f.name}" for path, f in functions if f.name.startswith("test_") and f.name not in names
    ]
    assert not idle


# A module imports from its own layer and from those before it (docs/design.md, "Imports go one way").
LAYERS = (
    ("errors", "files", "names"),
    ("specs",),
    ("call", "layout"),
    ("model",),
    ("reference", "kernels"),
    ("ops",),
    ("nets", "results"),
    ("plan",),
    ("verify", "codegen", "study", "train", "doctor"),
    ("bench",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{relative(path)}:{node.lineno}: relative import, expected an absolute one"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_go_one_way() -> None:
    upward = []
    for path in files(".py", folders=("src/convatlas", "kernels", "nets", "reference")):
        layer = relative(path).removeprefix("src/convatlas/").split("/")[0].removesuffix(".py")
        for name in imported(path) if layer in RANK else ():
            other = name.split(".")[1] if name.startswith("convatlas.") else ""
            if RANK.get(other, -1) > RANK[layer]:
                upward.append(f"{relative(path)} imports {name}")
    assert not upward


def test_reference_and_specs_import_no_framework() -> None:
    """The truth must not share code with what it judges, and must run where neither torch nor a GPU is."""
    foreign = {
        f"{relative(path)}: {name}"
        for path in files(".py", folders=("reference", "src/convatlas/specs"))
        for name in imported(path)
        if name.split(".")[0] in ("torch", "triton", "cupy")
    }
    assert not foreign


def layout() -> list[str]:
    """The paths that docs/design.md lists under "Layout": the first word of each line of the first indented block."""
    block = (ROOT / "docs/design.md").read_text().split("\n## Layout\n", 1)[1].strip("\n").split("\n\n")[0]
    return [line.split()[0] for line in block.splitlines()]


def test_design_lists_what_exists() -> None:
    paths = layout()
    assert len(paths) == len(set(paths)) > 10
    assert not [path for path in paths if not (ROOT / path).exists() or (ROOT / path).is_dir() != path.endswith("/")]


def test_design_lists_every_folder_and_every_module_of_the_package() -> None:
    """The folders of kernels, docs and src/convatlas, and the modules that stand in src/convatlas itself."""
    folders = {f"{relative(p.parent)}/" for p in files("", folders=("src/convatlas", "kernels", "docs"))}
    modules = {relative(p) for p in (ROOT / "src/convatlas").glob("*.py") if not p.name.startswith("__")}
    assert len(folders) > 20 and len(modules) >= 5
    assert (folders | modules | {"nets/", "reference/", "tests/", "benchmarks/"}) - set(layout()) == set()


def test_design_is_short() -> None:
    """What the parts agree on fits in 200 lines; what one part is like belongs to that part or to a page of its own."""
    assert len((ROOT / "docs/design.md").read_text().splitlines()) <= 200


def test_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text and "make test" in text
    for block in ("demo-output", "test-output"):
        assert text.count(f"<!-- {block}:begin -->") == text.count(f"<!-- {block}:end -->") == 1


def test_readme_example_runs(tmp_path: Path) -> None:
    """The Python block as it stands; the lines that it says it prints are printed."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    error, *printed = result.stdout.splitlines()
    assert float(error) < 1e-4
    expected = re.findall(r"^print\((?:spec|len).*\)  # (.*)$", code, flags=re.MULTILINE)
    assert len(expected) == 3 and printed == expected


def test_readme_example_of_a_plan_runs(tmp_path: Path) -> None:
    """The lines that take torchvision's ResNet-50 to a plan, on a CPU: they print what they say."""
    pytest.importorskip("torchvision")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    code = next(block for block in blocks if "convatlas.compile" in block)
    assert len(code.split("\n\n", 1)[1].splitlines()) <= 10
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    first, *rest = result.stdout.splitlines()
    assert first == "56 True" and rest[-1] == "PyTorch's own ops: none"


def test_the_example_of_checking_prints_what_it_says() -> None:
    """docs/numerics.md: the indented lines from "import torch" to the print run; what follows is what they print."""
    section = (ROOT / "docs/numerics.md").read_text().split("## Checking your own code")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ") or not line]
    code = "\n".join(lines[lines.index("import torch") :]).strip()
    code, printed = code.split("\n\nTrue", 1)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (result.stdout.strip(), result.stderr) == (f"True{printed}".strip(), "")


def commands_in_readme(command: str) -> list[str]:
    """The lines of README's list of commands that can run as they stand: no placeholder in capitals, no [option]."""
    lines = re.findall(rf"^(convatlas {command}\b.*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    return [line for line in lines if not re.search(r"\[|\b[A-Z]{3,}\b|mymodule", line)]


def test_readme_commands_on_one_op_and_on_torchvision_run(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("torchvision")
    lines = commands_in_readme("verify conv") + commands_in_readme("summary torchvision")
    assert len(lines) == 2
    for line in lines:
        quick = ["--backend", "numpy"] if "verify" in line else []
        assert main([*line.split()[1:], *quick]) == 0
    out = capsys.readouterr().out
    assert "all within the error bound" in out and "MACs: 4,089,184,256;" in out


DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])


def targets(document: Path) -> list[str]:
    """What a document links to in this repository, and the pictures that it shows."""
    text = document.read_text()
    found = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'src="([^"]+)"', text)
    return [target for target in found if "://" not in target and not target.startswith("mailto:")]


def anchors(document: Path) -> set[str]:
    """The fragments that lead to a document's headings, as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document: Path) -> None:
    wrong = []
    for target in targets(document):
        name, _, fragment = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (fragment and path.suffix == ".md" and fragment not in anchors(path)):
            wrong.append(target)
    assert not wrong


def test_docstrings_begin_with_what_they_describe() -> None:
    """Not with "Of ...", which leaves a reader to fetch the noun from the name of the function."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    begun = [
        f"{relative(path)}:{node.body[0].lineno}"
        for path in files(".py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, described) and (ast.get_docstring(node) or "").startswith("Of ")
    ]
    assert not begun


def test_code_cites_items_that_the_roadmap_has() -> None:
    items = set(re.findall(r"^#+ (R\d+):", (ROOT / "docs/roadmap.md").read_text(), flags=re.MULTILINE))
    assert items
    cited = {
        (relative(path), item)
        for path in files(".py", ".cu", ".cuh", ".hpp", ".md")
        for item in re.findall(r"\broadmap(?:\.md)?[^\n]{0,4}\b(R\d+)\b", path.read_text())
    }
    assert not [(name, item) for name, item in cited if item not in items]

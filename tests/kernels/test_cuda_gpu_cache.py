"""Compiled CUDA C++ kernels on a GPU's machine: what NVRTC is asked for, and what is kept on disk. CuPy is pretended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from convatlas.errors import BackendError
from convatlas.kernels.common.cuda import gpu

SOURCE, EXPRESSION = "softmax/softmax.cu", "softmax<float>"


class Device:
    compute_capability = "90"

    def __init__(self, index: int) -> None:
        pass

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class CuPy:
    """Notes what is compiled and what is loaded."""

    def __init__(self) -> None:
        self.compiled: list[tuple] = []
        self.loaded: list[bytes] = []
        compiler = SimpleNamespace(compile_using_nvrtc=self.compile)
        nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
        self.cuda = SimpleNamespace(Device=Device, compiler=compiler, nvrtc=nvrtc)

    def compile(self, text: str, options: tuple, arch: object, filename: str, expressions: tuple) -> tuple:
        self.compiled.append((text, options))
        return b"machine code", {one: f"mangled {one}" for one in expressions}

    def RawModule(self, path: str) -> SimpleNamespace:
        self.loaded.append(Path(path).read_bytes())
        return SimpleNamespace(get_function=lambda name: name)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CuPy:
    made = CuPy()
    monkeypatch.setattr(gpu, "_cupy", lambda: made)
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
    return made


def asked() -> str:
    return gpu.kernel.__wrapped__(SOURCE, EXPRESSION, 0).function


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.cubin"))


def test_a_kernel_is_compiled_once_and_subnormal_numbers_are_kept(cupy: CuPy, tmp_path: Path) -> None:
    assert asked() == asked() == f"mangled {EXPRESSION}"
    ((text, options),) = cupy.compiled
    assert "softmax" in text and not any("ftz" in option or "fast" in option for option in options)
    assert cupy.loaded == [b"machine code"] * 2 and len(kept(tmp_path)) == 1


@pytest.mark.parametrize("damage", [b"", b"machine codE"])
def test_a_damaged_file_is_compiled_anew(cupy: CuPy, tmp_path: Path, damage: bytes) -> None:
    asked()
    (path,) = kept(tmp_path)
    path.write_bytes(damage)
    assert asked() == f"mangled {EXPRESSION}" and len(cupy.compiled) == 2 and cupy.loaded[-1] == b"machine code"
    path.with_suffix(".json").write_text("[]")
    asked()
    assert len(cupy.compiled) == 3


def test_a_folder_that_cannot_be_written_to_is_no_error(cupy: CuPy, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "file"))
    assert asked() == f"mangled {EXPRESSION}" and cupy.loaded == [b"machine code"]


def test_what_nvrtc_refuses_is_one_line(cupy: CuPy, monkeypatch) -> None:
    def refused(*arguments: object) -> tuple:
        raise RuntimeError("softmax.cu(3): error\nmore")

    monkeypatch.setattr(cupy.cuda.compiler, "compile_using_nvrtc", refused)
    with pytest.raises(BackendError, match="could not compile") as error:
        asked()
    assert "\n" not in str(error.value)

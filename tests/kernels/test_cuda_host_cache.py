"""Where kernels built for the CPU are kept: damaged ones are built anew, and what makes building impossible is one line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import torch

import convatlas
from convatlas.errors import BackendError, ConvAtlasWarning
from convatlas.files import own_folder
from convatlas.kernels.common.cuda import host
from convatlas.kernels.common.cuda.launch import CudaLaunch

LAUNCH = CudaLaunch("softmax/softmax.cu", "softmax", ("float",), (), 0, {})
CACHED = (host.compiler, host._version, own_folder, host._function)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The one kernel of this file, built once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVATLAS_CACHE", str(tmp_path_factory.mktemp("built")))
        return host.build(LAUNCH).read_bytes()


@pytest.fixture
def compilations(library: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """Gives a cache of its own, a compiler that takes no time, and the list of what it was asked for."""
    asked: list = []
    monkeypatch.setattr(host, "_compiled", lambda *what: asked.append(what) or library[: -host.DIGEST])
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    for function in CACHED:
        function.cache_clear()
    yield asked
    for function in CACHED:
        function.cache_clear()


def put(path: Path, data: bytes) -> None:
    """Puts another file in a library's place. To change one that this process has loaded is a bus error, even at exit."""
    other = path.with_suffix(".other")
    other.write_bytes(data)
    other.replace(path)


def softmax_is_right() -> bool:
    x = torch.randn(3, 7)
    return torch.allclose(convatlas.softmax(x, backend="cuda"), torch.softmax(x, -1))


def test_a_kept_library_is_taken(compilations: list) -> None:
    path = host.build(LAUNCH)
    assert host.build(LAUNCH) == path and len(compilations) == 1 and softmax_is_right()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],  # whole pages of it are missing: to touch one is a bus error
        lambda data: data[:-1],
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
        lambda data: data[: -host.DIGEST],
        lambda data: b"text",
    ],
    ids=["empty", "half", "a byte short", "a bit turned", "no hash", "text"],
)
def test_a_damaged_library_is_built_anew_before_it_is_loaded(compilations: list, damage, library: bytes) -> None:
    path = host.build(LAUNCH)
    put(path, damage(library))
    assert host.build(LAUNCH) == path and len(compilations) == 2
    assert path.read_bytes() == library and softmax_is_right()


def test_a_library_that_cannot_be_loaded_is_built_anew_once(compilations: list) -> None:
    path = host.build(LAUNCH)
    put(path, b"whole, and no library" + hashlib.sha256(b"whole, and no library").digest())
    assert softmax_is_right() and len(compilations) == 2


def test_one_that_cannot_be_loaded_when_new_either_is_one_line(compilations: list, monkeypatch) -> None:
    monkeypatch.setattr(host, "_compiled", lambda *what: b"no library")
    with pytest.raises(BackendError, match=r"cannot be loaded: .*CONVATLAS_CACHE sets another folder") as error:
        softmax_is_right()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["below a file", "a name too long"])
def test_a_folder_that_cannot_be_written_to_is_a_warning(compilations: list, tmp_path, monkeypatch, where) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / ("file" if where == "below a file" else "x" * 300)
    monkeypatch.setenv("CONVATLAS_CACHE", str(folder))
    with pytest.warns(ConvAtlasWarning, match=r"cannot be kept in .*; set CONVATLAS_CACHE"):
        assert softmax_is_right()


def test_without_a_home_the_process_has_a_folder_of_its_own(compilations: list, monkeypatch) -> None:
    for name in ("CONVATLAS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user whom nobody knows
    assert host.folder() == own_folder() and softmax_is_right()


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_compiler_is_the_default(compilations: list, monkeypatch, value) -> None:
    monkeypatch.setenv("CXX", value)
    assert host.compiler() == ("g++",)


def test_a_warm_cache_needs_no_compiler(compilations: list, monkeypatch) -> None:
    path = host.build(LAUNCH)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for function in CACHED:
        function.cache_clear()
    assert host.build(LAUNCH) == path and softmax_is_right() and len(compilations) == 1
    put(path, b"")
    with pytest.raises(BackendError, match="apt-get install g"):
        host.build(LAUNCH)


@pytest.mark.parametrize(
    "value, says",
    [
        ("no-such-compiler", r"no-such-compiler, which is not here: apt-get install g\+\+"),
        ("g++ 'open", "No closing quotation"),
        ("{}", "cannot be run: Exec format error"),
    ],
)
def test_a_compiler_that_cannot_be_run_is_one_line(compilations: list, monkeypatch, tmp_path, value, says) -> None:
    (tmp_path / "broken").write_bytes(b"\x7fELF")
    (tmp_path / "broken").chmod(0o755)
    monkeypatch.setenv("CXX", value.format(tmp_path / "broken"))
    with pytest.raises(BackendError, match=says) as error:
        host.build(LAUNCH)
    assert "\n" not in str(error.value)


def test_builders_at_once_leave_one_whole_library(compilations: list, library: bytes) -> None:
    host._version()
    threads = [Thread(target=host.build, args=(LAUNCH, (), True)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (kept,) = host.folder().iterdir()
    assert len(compilations) == 8 and kept.read_bytes() == library


def test_the_process_s_own_folder_goes_with_it(tmp_path) -> None:
    code = "from convatlas.files import own_folder; print(own_folder())"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert made and not Path(made).exists()

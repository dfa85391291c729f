"""What commands write to: checked before the work starts, whole or not at all, and one line where it cannot be done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas.errors import InputError
from convatlas.files import check_writable, readable, shown, whole, write_text


def bad_targets(tmp_path) -> list[str]:
    """A folder, below a file, names that no file can have, a folder that belongs to the kernel."""
    (tmp_path / "file").touch()
    return [str(tmp_path), str(tmp_path / "file/x.json"), str(tmp_path / ("x" * 300)), "/proc/x.json", "a\0b"]


@pytest.fixture
def no_work(monkeypatch):
    """Whatever takes time fails the test."""
    for name in ("convatlas.study.lecture.atlas.Atlas", "torch.cuda.is_available", "convatlas.results.store.load"):
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("the work began"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("lecture", "--markdown"),
        ("profile", "resnet18", "--json"),
        ("profile", "resnet18", "--trace"),
        ("compare", "a.json", "b.json", "--json"),
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_is_one_line_before_the_work(ask, no_work, tmp_path, arguments):
    for target in bad_targets(tmp_path):
        code, out, err = ask(*arguments, target)
        assert (code, out) == (2, "") and err.count("\n") == 1 and "Traceback" not in err, target
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_folder_that_cannot_be_written_to_is_one_line_before_the_work(ask, no_work, tmp_path):
    for target in bad_targets(tmp_path)[1:]:
        code, out, err = ask("lecture", "nin", "--out", target)
        assert (code, out) == (2, "") and err.count("\n") == 1, target


def test_what_can_be_written_passes_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    for target in (tmp_path / "file", tmp_path / "link", tmp_path / "new/folder/x", Path("/dev/null")):
        check_writable(target)
    check_writable(tmp_path, folder=True)
    check_writable(tmp_path / "new/folder", folder=True)
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
        and (tmp_path / "file").read_text() == "kept"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_permissions(tmp_path):
    (tmp_path / "file").touch(0o400)
    tmp_path.chmod(0o500)
    for target in ("file", "new"):
        with pytest.raises(InputError, match="permission denied"):
            check_writable(tmp_path / target)
    (tmp_path / "file").chmod(0)
    with pytest.raises(InputError, match="permission denied"):
        readable(tmp_path / "file", "file")


def test_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "link") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "before" and len(list(tmp_path.iterdir())) == 2
    write_text(tmp_path / "link", "after")
    assert (tmp_path / "file").read_text() == "after" and (tmp_path / "link").is_symlink()
    write_text("/dev/null", "a rename would replace the device")
    assert not Path("/dev/null").is_file()
    name = tmp_path / ("x" * 255)  # as long as a name may be
    write_text(name, "text")
    assert name.read_text() == "text"


def test_a_path_in_a_message_is_short_and_printable():
    assert shown("a/b.png") == "a/b.png" and shown("a\0\n\x1b[1m") == r"a\x00\n\x1b[1m" and len(shown("x" * 5000)) < 200


def shell(line: str) -> subprocess.CompletedProcess:
    command = line.replace("convatlas", f"{sys.executable} -m convatlas")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "line, says",
    [
        ("convatlas doctor > /dev/full", "convatlas: cannot write the output: No space left on device\n"),
        ("convatlas --version > /dev/full", "convatlas: cannot write the output: No space left on device\n"),
        ("convatlas --version >&-", "convatlas: standard output is closed, expected somewhere to print to\n"),
    ],
)
def test_output_that_cannot_be_written_is_one_line(line, says):
    done = shell(line)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)


def test_a_closed_standard_error_is_no_error():
    assert shell("convatlas --version 2>&-").returncode == 0 and shell("convatlas verify quux 2>&-").returncode == 2

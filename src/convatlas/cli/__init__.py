"""The command line, `convatlas` and `python -m convatlas`.

Exit codes: 0 fine, 1 verification failed, a --fail-on was met or pictures could not be classified, 2 bad usage or input that cannot
be used (one line on stderr, no traceback), 130 interrupted (Ctrl-C), 143 terminated (SIGTERM), both after printing what was found
so far, 141 the reader of the output has closed it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BAD_USAGE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code; arguments default to the process's."""
    from convatlas.cli.app import app
    from convatlas.errors import ConvAtlasError
    from convatlas.files import shown

    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    if sys.stdout is None:
        return _fail("standard output is closed, expected somewhere to print to")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or pipe of another encoding gets a "?" for what it cannot show
            stream.reconfigure(errors="replace")
    show = warnings.showwarning
    try:
        warnings.showwarning = _show_warning
        with _terminated_as_interrupted() as terminated:
            code = app(args=arguments, prog_name="convatlas", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED and terminated:
            return TERMINATED
        return code if isinstance(code, int) else 0
    except ConvAtlasError as error:
        return _fail(str(error))
    except (BrokenPipeError, SystemExit) as error:
        # rich and typer answer a broken pipe with SystemExit(1), which would say that a verification failed.
        if isinstance(error, SystemExit) and error.code != 1:
            raise
        _forget_output()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # a disk that is full, a file that went away meanwhile: no fault of ours
        _forget_output()
        return _fail(
            f"{shown(error.filename) if error.filename else 'cannot write the output'}: {error.strerror or error}"
        )
    except Exception as error:
        # Click's own errors, whichever package brings Click (typer carries its own since 0.26).
        if hasattr(error, "format_message"):
            return _fail(error.format_message())
        if type(error).__name__ == "Abort":
            return INTERRUPTED
        if isinstance(error, MemoryError) or ("allocate" in str(error) and isinstance(error, RuntimeError)):
            return _fail(f"not enough memory: {str(error).splitlines()[0] if str(error) else 'the allocation failed'}")
        raise
    finally:
        warnings.showwarning = show


@contextmanager
def _terminated_as_interrupted() -> Iterator[list[int]]:
    """SIGTERM acts as Ctrl-C does; yields a list that is not empty once it came."""
    came: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield came  # another program's command line, which has its own way
        return

    def interrupt(number: int, frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _forget_output() -> None:
    """Makes Python's last flush of stdout at its exit harmless, since it would fail again (docs.python.org, signal, "SIGPIPE")."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *about: Any, **more: Any) -> None:
    """Prints a warning as one line, without the place in the source, which is of no use on the command line."""
    print(f"convatlas: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str) -> int:
    print(f"convatlas: {' '.join(message.split())}", file=sys.stderr)
    return BAD_USAGE

"""The command line, `convatlas` and `python -m convatlas`.

Exit codes: 0 fine, 1 verification failed or a --fail-on was met, 2 bad usage or input that cannot be used (one line on stderr,
no traceback), 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

BAD_USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code; arguments default to the process's."""
    from convatlas.cli.app import app
    from convatlas.errors import ConvAtlasError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or pipe of another encoding gets a "?" for what it cannot show
            stream.reconfigure(errors="replace")
    show = warnings.showwarning
    try:
        warnings.showwarning = _show_warning
        code = app(args=arguments, prog_name="convatlas", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except ConvAtlasError as error:
        return _fail(str(error))
    except (BrokenPipeError, SystemExit) as error:
        # rich and typer answer a broken pipe with SystemExit(1), which would say that a verification failed.
        if isinstance(error, SystemExit) and error.code != 1:
            raise
        # Python flushes stdout once more on its way out, which must not fail again (docs.python.org, signal, "SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
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


def _show_warning(message: Warning | str, *about: Any, **more: Any) -> None:
    """One line; where in the source a warning comes from is nothing to a user of the command line."""
    print(f"convatlas: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str) -> int:
    print(f"convatlas: {' '.join(message.split())}", file=sys.stderr)
    return BAD_USAGE

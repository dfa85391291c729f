"""The GPUs of this machine, as the driver names them, read through nvidia-ml-py (import name pynvml), which is optional."""

from __future__ import annotations

from convatlas.errors import InputError
from convatlas.model.gpu import GPU, names, of_device, representative


def present() -> list[GPU]:
    """The GPUs of this machine that model/gpus.json knows, each kind once, in the driver's order.

    Raises InputError, in one line, where nvidia-ml-py is not installed, where there is no driver or no GPU, and for a GPU that is
    not known.
    """
    try:
        import pynvml
    except ImportError:
        raise InputError(
            "the GPUs of this machine are read through nvidia-ml-py, which is not installed: pip install nvidia-ml-py, or name one "
            f"({', '.join(names())})"
        ) from None
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            devices = [
                (_text(pynvml.nvmlDeviceGetName(h)), pynvml.nvmlDeviceGetCudaComputeCapability(h)) for h in handles
            ]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise InputError(
            f"no GPU of this machine can be read ({error}), expected an NVIDIA driver; name one instead"
        ) from None
    if not devices:
        raise InputError("this machine has no NVIDIA GPU: name one instead")
    found: dict[str, GPU] = {}
    for name, (major, minor) in devices:
        known = of_device(name)
        if known is None:
            like = representative(10 * major + minor).name
            raise InputError(
                f"this machine's {name} (compute capability {major}.{minor}) is not known to the package: write its numbers to a "
                f'JSON file that begins {{"like": "{like}"}} and give its name'
            )
        found[known.name] = known
    return list(found.values())


def _text(name: str | bytes) -> str:
    """Old versions of nvidia-ml-py give bytes."""
    return name.decode() if isinstance(name, bytes) else name

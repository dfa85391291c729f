"""Hand-written GPU kernels, one folder an op: a launcher in __init__.py, launch configs in configs.py, kernels in triton_*.py.

A launcher is a pure function `launches(call, tensors, out, target) -> list[Launch]`: it chooses a config and says what to
launch, on real tensors or on meta tensors, so that every launch can be run, interpreted, or cross-compiled for a GPU that is
not here.
"""

if __name__ != "convatlas.kernels":
    raise ImportError(
        f"this folder was imported as {__name__!r}, which would make a second copy of it: "
        "import convatlas.kernels instead (pip install -e . in the repository's root)"
    )

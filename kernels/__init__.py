"""Hand-written GPU kernels, one folder an op, and common/ for what ops share.

In each folder: kernels in triton.py (or triton_<variant>.py) and <op>.cu, launch configs in configs.py, launchers in
launch_triton.py and launch_cuda.py. A launcher is a pure function from a Problem to a list of launches. It chooses a config and
says what to launch. That works on real tensors and on meta tensors, so that every launch can be run, interpreted, or compiled for a
GPU that is not here.
"""

if __name__ != "convatlas.kernels":
    raise ImportError(
        f"this folder was imported as {__name__!r}, which would make a second copy of it: "
        "import convatlas.kernels instead (pip install -e . in the repository's root)"
    )

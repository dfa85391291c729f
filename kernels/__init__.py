"""convatlas.kernels."""

if __name__ != "convatlas.kernels":
    raise ImportError(
        f"this folder was imported as {__name__!r}, which would make a second copy of it: "
        "import convatlas.kernels instead (pip install -e . in the repository's root)"
    )

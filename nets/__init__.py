"""convatlas.nets."""

if __name__ != "convatlas.nets":
    raise ImportError(
        f"this folder was imported as {__name__!r}, which would make a second copy of it: "
        "import convatlas.nets instead (pip install -e . in the repository's root)"
    )

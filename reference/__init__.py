"""convatlas.reference."""

if __name__ != "convatlas.reference":
    raise ImportError(
        f"this folder was imported as {__name__!r}, which would make a second copy of it: "
        "import convatlas.reference instead (pip install -e . in the repository's root)"
    )

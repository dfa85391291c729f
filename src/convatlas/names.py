"""Names that a user writes: their case and punctuation do not matter, and an error shows the nearest known names."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from convatlas.errors import ConvAtlasError, NetError


def spelled(name: str, known: Collection[str], what: str, lists: str, error: type[ConvAtlasError] = NetError) -> str:
    """The one of `known` that equals `name` but for case and punctuation.

    Raises `error` that names the nearest ones and says, in `lists`, where all of them are to be found.
    """
    plain = {folded(one): one for one in known}
    given = folded(name) if isinstance(name, str) else ""
    if given in plain:
        return plain[given]
    nearest = ", ".join(plain[one] for one in get_close_matches(given, plain, n=3, cutoff=0.5))
    raise error(f"unknown {what} {name!r}{f', nearest: {nearest}' if nearest else ''}; {lists}")


def folded(name: str) -> str:
    """The letters and digits of a name, without case."""
    return "".join(c for c in name.casefold() if c.isalnum())

"""Package names, as PyPI normalises them (PEP 503)."""

import re
from collections.abc import Iterable

ALL_PACKAGES = "__all__"
"""The name of all packages together. No real name normalises to it."""

MAX_NAME_CHARACTERS = 200

_SEPARATORS = re.compile(r"[-_.]+")
_NORMALISED = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def normalise(name: str) -> str:
    """Return the spelling that is stored: `Zope.Interface` becomes `zope-interface`."""
    if name == ALL_PACKAGES or not name.isascii():
        # All names are ASCII. Others must not be lowered, for the reason that `lower_ascii` gives.
        return name
    return _SEPARATORS.sub("-", name).lower()


def is_valid(normalised: str) -> bool:
    """Return True if PyPI could have a package with this normalised name."""
    return len(normalised) <= MAX_NAME_CHARACTERS and bool(_NORMALISED.fullmatch(normalised))


def followed_text(names: Iterable[str] | None) -> str | None:
    """Return normalised names as the text that is stored with days. Equal sets have equal texts."""
    return None if names is None else " ".join(sorted(names))

"""The base of the enumerations that query arguments use, and the comparison of their values."""

from enum import StrEnum
from typing import Self


def lower_ascii(text: str) -> str:
    """Return an ASCII text in lower case, and another text unchanged: `str.lower` would turn the
    Kelvin sign into the letter k.
    """
    return text.lower() if text.isascii() else text


class Choice(StrEnum):
    """The values of an argument, accepted in any case."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        lower = lower_ascii(str(value))
        return next((member for member in cls if member.value == lower), None)


class Truth(Choice):
    """The values of an argument that turns something on or off."""

    TRUE = "true"
    FALSE = "false"

"""The base of the enumerations that query arguments use."""

from enum import StrEnum
from typing import Self


class Choice(StrEnum):
    """The values of an argument, accepted in any case."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        # Change the case of ASCII text only: the lower case of the Kelvin sign is the letter k.
        text = str(value)
        lower = text.lower() if text.isascii() else text
        return next((member for member in cls if member.value == lower), None)


class Truth(Choice):
    """The values of an argument that turns something on or off."""

    TRUE = "true"
    FALSE = "false"

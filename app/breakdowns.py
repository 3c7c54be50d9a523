"""The registry of time series: what each is called, filtered by, and where its categories are kept.

A new breakdown is one entry here, its column in `app.db.tables` with a migration, its expression in
`app.ingest.day_query`, and its response model in `app.api.schemas`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

NULL_CATEGORY = "null"
"""The category of downloads whose value is missing in the source."""

OTHER_CATEGORY = "other"
"""The category of downloads whose value is none of those that are kept apart."""


class Installer(StrEnum):
    """Those that PyPI recognises by their user agent. It takes the names that pip, uv and hatch
    give of themselves as they come, so that anybody can make up more: these are `other`.
    """

    ARTIFACTORY = "artifactory"
    BANDERSNATCH = "bandersnatch"
    BAZEL = "bazel"
    BROWSER = "browser"
    CONDA = "conda"
    DEVPI = "devpi"
    DISTRIBUTE = "distribute"
    HATCH = "hatch"
    HOMEBREW = "homebrew"
    MATURIN = "maturin"
    NEXUS = "nexus"
    OS = "os"
    PDM = "pdm"
    PEP381CLIENT = "pep381client"
    PEX = "pex"
    PIP = "pip"
    PIPENV = "pipenv"
    POETRY = "poetry"
    REQUESTS = "requests"
    SETUPTOOLS = "setuptools"
    TWINE = "twine"
    UV = "uv"
    UV_PIP = "uv-pip"
    Z3C_PYPIMIRROR = "z3c.pypimirror"
    OTHER = "other"


class Implementation(StrEnum):
    """Of Python. Anybody can make up more of these too."""

    CPYTHON = "cpython"
    GRAALPY = "graalpy"
    GRAALVM = "graalvm"
    IRONPYTHON = "ironpython"
    JYTHON = "jython"
    MICROPYTHON = "micropython"
    PYPY = "pypy"
    PYSTON = "pyston"
    RUSTPYTHON = "rustpython"
    OTHER = "other"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Breakdown:
    """How one package's downloads of a day divide into categories, known mirrors excluded."""

    name: str
    """The last segment of the path. The payload's type is this and `_downloads`."""

    column: str
    """The column of `daily_downloads` with an object of downloads by stored category."""

    argument: str
    """The query argument that asks for one category."""

    is_category: Callable[[str], object]
    """Whether a stored category is one that there can be. True or what is as good."""

    category_of: Callable[[str], str] | None = None
    """From the stored category to the one that is served; None where they are the same."""

    is_optional: bool = False
    """Whether it is ingested only where INGEST_BREAKDOWNS says so. Of a day without it the column
    is NULL: how its downloads divide is unknown."""

    shown_categories: int | None = None
    """How many are told apart, those with most downloads, unless all are asked for."""

    max_categories: int | None = None
    """Of a row, where it is not by what a category can be."""

    is_of_one_package: bool = False
    """Whether its categories mean nothing across packages: `__all__` has none."""

    @property
    def payload_type(self) -> str:
        return f"{self.name}_downloads"


_is_python_minor = re.compile(r"[0-9]\.[0-9]+|null").fullmatch

MAX_VERSIONS = 100
"""Releases of a package that are kept apart for a day. The rest is `OTHER_CATEGORY`."""

PYTHON_MAJOR = Breakdown(
    "python_major",
    column="python_minor",
    argument="version",
    is_category=_is_python_minor,
    category_of=lambda minor: minor.partition(".")[0],
)
PYTHON_MINOR = Breakdown(
    "python_minor", column="python_minor", argument="version", is_category=_is_python_minor
)
SYSTEM = Breakdown(
    "system",
    column="system",
    argument="os",
    is_category={"windows", "linux", "darwin", OTHER_CATEGORY, NULL_CATEGORY}.__contains__,
)
# The installer's name is read in any case, to leave out mirrors.
INSTALLER = Breakdown(
    "installer",
    column="installer",
    argument="installer",
    is_category=frozenset(map(str, Installer)).__contains__,
    is_optional=True,
)
CI = Breakdown(
    "ci",
    column="ci",
    argument="ci",
    is_category={"true", "false", NULL_CATEGORY}.__contains__,
    is_optional=True,
)
COUNTRY = Breakdown(
    "country",
    column="country",
    argument="country",
    is_category=re.compile(r"[A-Z]{2}|null").fullmatch,
    is_optional=True,
)
VERSION = Breakdown(
    "version",
    column="version",
    argument="version",
    is_category=re.compile(r"[!-~]{1,64}").fullmatch,
    max_categories=MAX_VERSIONS + 1,
    is_optional=True,
    shown_categories=20,
    is_of_one_package=True,
)
IMPLEMENTATION = Breakdown(
    "implementation",
    column="implementation",
    argument="implementation",
    is_category=frozenset(map(str, Implementation)).__contains__,
    is_optional=True,
)

BREAKDOWNS = (
    PYTHON_MAJOR,
    PYTHON_MINOR,
    SYSTEM,
    INSTALLER,
    CI,
    COUNTRY,
    VERSION,
    IMPLEMENTATION,
)

OPTIONAL_BREAKDOWNS = tuple(breakdown for breakdown in BREAKDOWNS if breakdown.is_optional)

REQUIRED_COLUMNS = tuple(
    dict.fromkeys(breakdown.column for breakdown in BREAKDOWNS if not breakdown.is_optional)
)
"""The stored columns that every row has, each once."""

OPTIONAL_COLUMNS = tuple(breakdown.column for breakdown in OPTIONAL_BREAKDOWNS)

BREAKDOWN_COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
"""All stored columns, in the order in which rows carry them."""


def columns_with(optional: Iterable[Breakdown]) -> tuple[str, ...]:
    """The columns of a day that is ingested with these optional breakdowns, in their order."""
    chosen = {breakdown.column for breakdown in optional}
    return REQUIRED_COLUMNS + tuple(column for column in OPTIONAL_COLUMNS if column in chosen)

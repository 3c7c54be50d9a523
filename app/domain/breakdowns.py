"""The registry of breakdowns, from which everything about them is derived."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """A division of one package's downloads of a day into categories, known mirrors excluded."""

    name: str
    """Last segment of the path. The payload's type is this and `_downloads`."""

    by: str
    """Subject of the categories. It completes "Downloads by day and …"."""

    column: str
    """Column of `daily_downloads` that contains an object of downloads by stored category."""

    expression: str
    """BigQuery expression of a raw download's stored category. NULL becomes `null`."""

    argument: str
    """Query argument that selects one category."""

    filter_help: str
    """Values of the argument, as documented."""

    filter_example: str | None = None
    """Documented example of the argument, where it is a text."""

    filter_pattern: str | None = None
    """Regular expression of the argument's values, or None if it accepts any text."""

    categories: tuple[str, ...] | re.Pattern[str]
    """Stored categories: all of them, or a pattern that each of them matches."""

    examples: tuple[str, ...]
    """Categories that the documented example has, in order."""

    sample_shares: Mapping[str, float] | None = field(default=None, hash=False)
    """Shares of the categories in sample data, or None if the sample source computes them."""

    category_of: Callable[[str], str] | None = None
    """Function from the stored category to the served one, or None if they are equal."""

    is_optional: bool = False
    """True if it is ingested only where INGEST_BREAKDOWNS names it. The column is NULL on a day
    without it, because the division of its downloads is unknown."""

    shown_categories: int | None = None
    """Number of categories in a response, those with most downloads, unless all are requested."""

    max_categories: int | None = None
    """Maximum number of categories per row, for breakdowns with open categories."""

    is_of_one_package: bool = False
    """True if the categories mean nothing across packages, so that `__all__` has none."""

    @property
    def payload_type(self) -> str:
        return f"{self.name}_downloads"

    @property
    def is_category(self) -> Callable[[str], object]:
        """A function that returns a true value for a possible stored category."""
        if isinstance(self.categories, tuple):
            return frozenset(self.categories).__contains__
        return self.categories.fullmatch


def _known(value: str, names: Iterable[str]) -> str:
    """Return the expression of a value in lower case, or `other` if it is not one of the names."""
    listed = ", ".join(f"'{name}'" for name in names if name not in {OTHER_CATEGORY, NULL_CATEGORY})
    return f"IF({value} IS NULL OR LOWER({value}) IN ({listed}), LOWER({value}), 'other')"


_PYTHON_MINOR = re.compile(r"[0-9]\.[0-9]+|null")
_PYTHON_MINOR_EXPRESSION = r"REGEXP_EXTRACT(details.python, r'^[0-9]\.[0-9]+')"

MAX_VERSIONS = 100
"""Releases of a package that are kept apart for a day. The rest is `OTHER_CATEGORY`."""

PYTHON_MAJOR = Breakdown(
    name="python_major",
    by="major Python version",
    column="python_minor",
    expression=_PYTHON_MINOR_EXPRESSION,
    argument="version",
    filter_help="One major version, or `null`. All when left out.",
    filter_example="3",
    categories=_PYTHON_MINOR,
    examples=("2", "3", "null"),
    category_of=lambda minor: minor.partition(".")[0],
)
PYTHON_MINOR = Breakdown(
    name="python_minor",
    by="minor Python version",
    column="python_minor",
    expression=_PYTHON_MINOR_EXPRESSION,
    argument="version",
    filter_help="One minor version, or `null`. All when left out.",
    filter_example="3.12",
    categories=_PYTHON_MINOR,
    examples=("3.13", "3.9", "null"),
)
SYSTEM = Breakdown(
    name="system",
    by="operating system",
    column="system",
    expression="CASE WHEN details.system.name IN ('Windows', 'Linux', 'Darwin') "
    "THEN LOWER(details.system.name) "
    "WHEN details.system.name IS NOT NULL THEN 'other' END",
    argument="os",
    filter_help="One operating system. All when left out.",
    categories=("windows", "linux", "darwin", OTHER_CATEGORY, NULL_CATEGORY),
    examples=("darwin", "linux", "windows"),
    sample_shares={"linux": 0.86, "windows": 0.07, "darwin": 0.04, "other": 0.001, "null": 0.02},
)
# The source's query reads the installer's name in any case, to leave out mirrors.
INSTALLER = Breakdown(
    name="installer",
    by="installer",
    column="installer",
    expression=_known("details.installer.name", Installer),
    argument="installer",
    filter_help="One installer. All when left out.",
    categories=tuple(map(str, Installer)),
    examples=("other", "pip", "uv"),
    sample_shares={
        "pip": 0.79,
        "uv": 0.16,
        "poetry": 0.02,
        "requests": 0.02,
        "browser": 0.002,
        "other": 0.001,
    },
    is_optional=True,
)
CI = Breakdown(
    name="ci",
    by="whether continuous integration made them",
    column="ci",
    expression="CAST(details.ci AS STRING)",
    argument="ci",
    filter_help="True if continuous integration made them, `null` if unknown. All when left out.",
    categories=("true", "false", NULL_CATEGORY),
    examples=("null", "true"),
    sample_shares={"true": 0.24, "null": 0.76},
    is_optional=True,
)
COUNTRY = Breakdown(
    name="country",
    by="country",
    column="country",
    expression="REGEXP_EXTRACT(country_code, r'^[A-Z]{2}$')",
    argument="country",
    filter_help="One country, by its two letters of ISO 3166, or `null`. All when left out.",
    filter_example="US",
    filter_pattern="[A-Z]{2}|null",
    categories=re.compile(r"[A-Z]{2}|null"),
    examples=("DE", "US", "null"),
    sample_shares={
        "US": 0.62,
        "IE": 0.08,
        "DE": 0.07,
        "CN": 0.06,
        "IN": 0.05,
        "SG": 0.05,
        "JP": 0.04,
        "GB": 0.03,
        "null": 0.005,
    },
    is_optional=True,
)
VERSION = Breakdown(
    name="version",
    by="release of the package",
    column="version",
    # A text that no release can have is not worth its bytes in every row.
    expression="IF(file.version IS NULL OR REGEXP_CONTAINS(file.version, r'^[!-~]{1,64}$'), "
    "file.version, 'other')",
    argument="version",
    filter_help=f"One release; `all` that are stored, which are the {MAX_VERSIONS} with most "
    "downloads of each day, or `other` for the rest. When left out, the 20 with most downloads in "
    "the range, and all others as `other`.",
    filter_example="2.31.0",
    categories=re.compile(r"[!-~]{1,64}"),
    examples=("2.31.0", "2.32.3", "other"),
    max_categories=MAX_VERSIONS + 1,
    is_optional=True,
    shown_categories=20,
    is_of_one_package=True,
)
IMPLEMENTATION = Breakdown(
    name="implementation",
    by="implementation of Python",
    column="implementation",
    expression=_known("details.implementation.name", Implementation),
    argument="implementation",
    filter_help="One implementation. All when left out.",
    categories=tuple(map(str, Implementation)),
    examples=("cpython", "null", "pypy"),
    sample_shares={"cpython": 0.96, "null": 0.03, "pypy": 0.003},
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


EXPRESSIONS = {breakdown.column: breakdown.expression for breakdown in BREAKDOWNS}
"""By column, the BigQuery expression of a raw download's stored category."""


def columns_with(optional: Iterable[Breakdown]) -> tuple[str, ...]:
    """The columns of a day that is ingested with these optional breakdowns, in their order."""
    chosen = {breakdown.column for breakdown in optional}
    return REQUIRED_COLUMNS + tuple(column for column in OPTIONAL_COLUMNS if column in chosen)

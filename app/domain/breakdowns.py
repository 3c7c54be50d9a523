"""The registry of breakdowns. `CONTRIBUTING.md` describes how to add one."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

NULL_CATEGORY = "null"
"""Category of downloads whose value is missing in the source."""

OTHER_CATEGORY = "other"
"""Category of downloads whose value has no category of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """A division of one package's downloads of a day into categories, known mirrors excluded."""

    name: str
    """Last segment of the path. The payload's type is the name followed by `_downloads`."""

    by: str
    """Subject of the categories. It completes the text "Downloads by day and ..."."""

    column: str
    """Column of `daily_downloads` that contains a JSON object of downloads by stored category."""

    source_columns: tuple[str, ...]
    """Columns of PyPI's table that the expression reads."""

    billed_bytes: int = 0
    """Average bytes per download that BigQuery bills for the source columns, without those that
    every query reads anyway. A text is billed as its bytes in UTF-8 and 2 more, a truth value as 1,
    and a missing value as 0."""

    expression: str
    """BigQuery expression of a raw download's stored category. NULL becomes `null`."""

    argument: str
    """Query argument that selects one category."""

    filter_help: str
    """Values of the argument, as documented."""

    filter_example: str | None = None
    """Documented example of the argument, if its values are not enumerated."""

    filter_pattern: str | None = None
    """Regular expression of the argument's values, or None if it accepts any text."""

    categories: tuple[str, ...] | re.Pattern[str]
    """Stored categories: all of them, or a pattern that each of them matches."""

    examples: tuple[str, ...]
    """Categories in the documented example, in order."""

    sample_shares: Mapping[str, float] | None = field(default=None, hash=False)
    """Shares of the categories in sample data, or None if the sample source computes them."""

    respell: Callable[[str], str] | None = None
    """Function from a category in a file to the stored one, or None if they are equal."""

    category_of: Callable[[str], str] | None = None
    """Function from the stored category to the served one, or None if they are equal."""

    is_optional: bool = False
    """True if an instance need not ingest it. Its column is NULL on days without it."""

    shown_categories: int | None = None
    """Number of categories that a response shows by default: those with the most downloads. None if
    it shows all of them. The argument value `all` selects all stored ones."""

    max_categories: int | None = None
    """Maximum number of categories per row besides `other`, for breakdowns with open categories.
    Downloads in less frequent categories count as `other`."""

    is_of_one_package: bool = False
    """True if only single packages have the breakdown, and `__all__` does not: categories of
    different packages can't be summed, or nothing limits their number in a sum."""

    @property
    def title(self) -> str:
        """Prefix of the names of the breakdown's models in the OpenAPI document."""
        return self.name.title().replace("_", "")

    @property
    def payload_type(self) -> str:
        return f"{self.name}_downloads"

    @property
    def is_category(self) -> Callable[[str], object]:
        """A function that returns a true value for a possible stored category."""
        if isinstance(self.categories, tuple):
            return frozenset(self.categories).__contains__
        return self.categories.fullmatch


def _known(column: str, names: Iterable[str]) -> str:
    """Return an expression for a column in lower case, or `other` for values not in `names`."""
    listed = ", ".join(f"'{name}'" for name in names if name not in {OTHER_CATEGORY, NULL_CATEGORY})
    return f"IF({column} IS NULL OR LOWER({column}) IN ({listed}), LOWER({column}), 'other')"


# Clients can send any version. A limit of two digits after the dot bounds the number of categories.
_PYTHON_MINOR = re.compile(r"[0-9]\.[0-9]{1,2}|null")
_PYTHON_MINOR_EXPRESSION = r"REGEXP_EXTRACT(details.python, r'^([0-9]\.[0-9]{1,2})(?:[^0-9]|$)')"


def _bounded_minor(version: str) -> str:
    """Apply the rule of `_PYTHON_MINOR_EXPRESSION` to a version. Return other texts unchanged."""
    if not re.match(r"[0-9]\.[0-9]", version):
        return version
    minor = re.match(r"[0-9]\.[0-9]{1,2}(?![0-9])", version)
    return minor[0] if minor else NULL_CATEGORY


# Releases are served as CSV, so they must not begin like a formula of a spreadsheet.
_RELEASE = "[0-9A-Za-z][0-9A-Za-z.!+_-]{0,63}"

# PyPI recognises these installers by their user agents. It stores the names that pip, uv and hatch
# send without checking them, so any other name counts as `other`.
_INSTALLERS = (
    *("artifactory", "bandersnatch", "bazel", "browser", "conda", "devpi", "distribute", "hatch"),
    *("homebrew", "maturin", "nexus", "os", "pdm", "pep381client", "pex", "pip", "pipenv"),
    *("poetry", "requests", "setuptools", "twine", "uv", "uv-pip", "z3c.pypimirror"),
    OTHER_CATEGORY,
)
# Clients can send any name of an implementation, so all names not listed count as `other`.
_IMPLEMENTATIONS = (
    *("cpython", "graalpy", "graalvm", "ironpython", "jython", "micropython", "pypy", "pyston"),
    *("rustpython", OTHER_CATEGORY, NULL_CATEGORY),
)
# The types of files that PyPI accepts or accepted.
_FILE_TYPES = (
    *("bdist_wheel", "sdist", "bdist_egg", "bdist_wininst", "bdist_msi", "bdist_rpm"),
    *("bdist_dumb", "bdist_dmg", OTHER_CATEGORY, NULL_CATEGORY),
)
# Processors with wheels on PyPI, as Python names them on Linux, except that 64-bit ARM is `arm64`.
_CPUS = (
    *("x86_64", "arm64", "i686", "armv6l", "armv7l", "ppc64le", "riscv64", "s390x"),
    *(OTHER_CATEGORY, NULL_CATEGORY),
)
# A limit of two digits after the dot bounds the number of categories.
_LIBC_VERSION = r"[0-9]\.[0-9]{1,2}"
_LIBC = re.compile(f"(glibc|musl) {_LIBC_VERSION}|other|null")
# Distributions are served as CSV, so they must not begin like a formula of a spreadsheet.
_DISTRO = "[0-9A-Za-z][0-9A-Za-z !()+./_-]{0,63}"
_INSTALLER_VERSION = r"[0-9]{1,4}\.[0-9]{1,3}"

MAX_OPEN_CATEGORIES = 100
"""Value of `max_categories` of all breakdowns with open categories."""

SHOWN_CATEGORIES = 20
"""Value of `shown_categories` of all breakdowns with open categories."""


def _open_help(category: str) -> str:
    """Return the help of the argument of a breakdown with open categories."""
    return (
        f"{category}, `all` or `other`. By default the response has the {SHOWN_CATEGORIES} with "
        f"the most downloads in the range. `all` selects the {MAX_OPEN_CATEGORIES} with the most "
        "downloads on each day, which are all that are stored. The rest counts as `other`."
    )


PYTHON_MAJOR = Breakdown(
    name="python_major",
    by="major Python version",
    column="python_minor",
    source_columns=("details.python",),
    expression=_PYTHON_MINOR_EXPRESSION,
    argument="version",
    filter_help="One major version, or `null`. All by default.",
    filter_example="3",
    categories=_PYTHON_MINOR,
    respell=_bounded_minor,
    examples=("2", "3", "null"),
    category_of=lambda minor: minor.partition(".")[0],
)
PYTHON_MINOR = replace(
    PYTHON_MAJOR,
    name="python_minor",
    by="minor Python version",
    filter_help="One minor version, or `null`. All by default.",
    filter_example="3.12",
    examples=("3.13", "3.9", "null"),
    category_of=None,
)
SYSTEM = Breakdown(
    name="system",
    by="operating system",
    column="system",
    source_columns=("details.system.name",),
    expression="CASE WHEN details.system.name IN ('Windows', 'Linux', 'Darwin') "
    "THEN LOWER(details.system.name) "
    "WHEN details.system.name IS NOT NULL THEN 'other' END",
    argument="os",
    filter_help="One operating system. All by default.",
    categories=("windows", "linux", "darwin", OTHER_CATEGORY, NULL_CATEGORY),
    respell=str.lower,
    examples=("darwin", "linux", "windows"),
    sample_shares={"linux": 0.86, "windows": 0.07, "darwin": 0.04, "other": 0.001, "null": 0.02},
)
INSTALLER = Breakdown(
    name="installer",
    by="installer",
    column="installer",
    source_columns=("details.installer.name",),
    # The column is not billed, because every query reads it to exclude mirrors.
    expression=_known("details.installer.name", _INSTALLERS),
    argument="installer",
    filter_help="One installer. All by default.",
    categories=_INSTALLERS,
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
    by="use of continuous integration",
    column="ci",
    source_columns=("details.ci",),
    billed_bytes=1,
    expression="CAST(details.ci AS STRING)",
    argument="ci",
    filter_help="`true` for downloads by continuous integration, `null` for those of unknown "
    "origin. All by default.",
    categories=("true", "false", NULL_CATEGORY),
    examples=("null", "true"),
    sample_shares={"true": 0.24, "null": 0.76},
    is_optional=True,
)
COUNTRY = Breakdown(
    name="country",
    by="country",
    column="country",
    source_columns=("country_code",),
    billed_bytes=4,
    expression="REGEXP_EXTRACT(country_code, r'^[A-Z]{2}$')",
    argument="country",
    filter_help="One country, by its two letters of ISO 3166, or `null`. All by default.",
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
    source_columns=("file.version",),
    billed_bytes=7,
    # PEP 440 allows no other characters in a version.
    expression=f"IF(file.version IS NULL OR REGEXP_CONTAINS(file.version, r'^{_RELEASE}$'), "
    "file.version, 'other')",
    argument="version",
    filter_help=_open_help("One release"),
    filter_example="2.31.0",
    categories=re.compile(_RELEASE),
    examples=("2.31.0", "2.32.3", "other"),
    max_categories=MAX_OPEN_CATEGORIES,
    is_optional=True,
    shown_categories=SHOWN_CATEGORIES,
    is_of_one_package=True,
)
IMPLEMENTATION = Breakdown(
    name="implementation",
    by="implementation of Python",
    column="implementation",
    source_columns=("details.implementation.name",),
    billed_bytes=9,
    expression=_known("details.implementation.name", _IMPLEMENTATIONS),
    argument="implementation",
    filter_help="One implementation. All by default.",
    categories=_IMPLEMENTATIONS,
    examples=("cpython", "null", "pypy"),
    sample_shares={"cpython": 0.96, "null": 0.03, "pypy": 0.003},
    is_optional=True,
)
FILE_TYPE = Breakdown(
    name="file_type",
    by="type of file",
    column="file_type",
    source_columns=("file.type",),
    billed_bytes=13,
    expression=_known("file.type", _FILE_TYPES),
    argument="file_type",
    filter_help="One type of file, such as wheels or source archives. All by default.",
    categories=_FILE_TYPES,
    examples=("bdist_egg", "bdist_wheel", "sdist"),
    sample_shares={"bdist_wheel": 0.93, "sdist": 0.065, "bdist_egg": 0.004, "other": 0.001},
    is_optional=True,
)
CPU = Breakdown(
    name="cpu",
    by="type of processor",
    column="cpu",
    source_columns=("details.cpu",),
    billed_bytes=7,
    expression="CASE WHEN LOWER(details.cpu) = 'amd64' THEN 'x86_64' "
    "WHEN LOWER(details.cpu) = 'aarch64' THEN 'arm64' "
    "WHEN LOWER(details.cpu) IN ('i386', 'i586', 'x86') THEN 'i686' "
    f"ELSE {_known('details.cpu', _CPUS)} END",
    argument="cpu",
    filter_help="One type of processor. All by default.",
    categories=_CPUS,
    examples=("arm64", "null", "x86_64"),
    sample_shares={"x86_64": 0.83, "arm64": 0.14, "null": 0.02, "armv7l": 0.006, "other": 0.001},
    is_optional=True,
)
LIBC = Breakdown(
    name="libc",
    by="version of the C library",
    column="libc",
    source_columns=("details.distro.libc.lib", "details.distro.libc.version"),
    billed_bytes=11,
    expression="CASE WHEN details.distro.libc.lib IS NULL OR details.distro.libc.version IS NULL "
    "THEN NULL WHEN LOWER(details.distro.libc.lib) IN ('glibc', 'musl') "
    f"AND REGEXP_CONTAINS(details.distro.libc.version, r'^{_LIBC_VERSION}(?:[^0-9]|$)') "
    "THEN CONCAT(LOWER(details.distro.libc.lib), ' ', "
    f"REGEXP_EXTRACT(details.distro.libc.version, r'^{_LIBC_VERSION}')) ELSE 'other' END",
    argument="libc",
    filter_help="One C library and its minor version, `other` or `null`. All by default.",
    filter_example="glibc 2.31",
    categories=_LIBC,
    examples=("glibc 2.31", "musl 1.2", "null"),
    sample_shares={
        "glibc 2.31": 0.15,
        "glibc 2.35": 0.21,
        "glibc 2.36": 0.33,
        "glibc 2.39": 0.17,
        "musl 1.2": 0.05,
        "other": 0.001,
        "null": 0.08,
    },
    is_optional=True,
)
DISTRO = Breakdown(
    name="distro",
    by="distribution of the operating system",
    column="distro",
    source_columns=("details.distro.name", "details.distro.version"),
    billed_bytes=16,
    # Rolling distributions have no version.
    expression="CASE WHEN details.distro.name IS NULL THEN NULL WHEN REGEXP_CONTAINS("
    "RTRIM(CONCAT(details.distro.name, ' ', IFNULL(details.distro.version, ''))), "
    f"r'^{_DISTRO}$') "
    "THEN RTRIM(CONCAT(details.distro.name, ' ', IFNULL(details.distro.version, ''))) "
    "ELSE 'other' END",
    argument="distro",
    filter_help=_open_help("One distribution and its version, `null`"),
    filter_example="Ubuntu 24.04",
    categories=re.compile(_DISTRO),
    examples=("Debian GNU/Linux 12", "Ubuntu 24.04", "null"),
    sample_shares={
        "Debian GNU/Linux 12": 0.36,
        "Ubuntu 22.04": 0.2,
        "Ubuntu 24.04": 0.17,
        "Amazon Linux 2023": 0.07,
        "Alpine Linux 3.20.3": 0.05,
        "macOS 14.5": 0.04,
        "null": 0.1,
    },
    max_categories=MAX_OPEN_CATEGORIES,
    is_optional=True,
    shown_categories=SHOWN_CATEGORIES,
    is_of_one_package=True,
)
INSTALLER_VERSION = Breakdown(
    name="installer_version",
    by="version of the installer",
    column="installer_version",
    source_columns=("details.installer.name", "details.installer.version"),
    # The name is not billed, because every query reads it to exclude mirrors.
    billed_bytes=7,
    expression=f"IF({_known('details.installer.name', _INSTALLERS)} = 'other', 'other', "
    "CONCAT(LOWER(details.installer.name), IFNULL(CONCAT(' ', REGEXP_EXTRACT("
    f"details.installer.version, r'^({_INSTALLER_VERSION})(?:[^0-9]|$)')), '')))",
    argument="installer_version",
    filter_help=_open_help("One installer and its minor version"),
    filter_example="pip 25.1",
    categories=re.compile(rf"({'|'.join(map(re.escape, _INSTALLERS))})( {_INSTALLER_VERSION})?"),
    examples=("other", "pip 25.1", "uv 0.8"),
    sample_shares={
        "pip 25.1": 0.33,
        "pip 24.0": 0.28,
        "pip 23.0": 0.19,
        "uv 0.8": 0.16,
        "poetry 2.1": 0.02,
        "browser": 0.002,
        "other": 0.001,
    },
    max_categories=MAX_OPEN_CATEGORIES,
    is_optional=True,
    shown_categories=SHOWN_CATEGORIES,
    is_of_one_package=True,
)

BREAKDOWNS = (
    *(PYTHON_MAJOR, PYTHON_MINOR, SYSTEM),
    *(INSTALLER, CI, COUNTRY, VERSION, IMPLEMENTATION, FILE_TYPE, CPU),
    *(LIBC, DISTRO, INSTALLER_VERSION),
)

OPTIONAL_BREAKDOWNS = tuple(breakdown for breakdown in BREAKDOWNS if breakdown.is_optional)

REQUIRED_COLUMNS = tuple(
    dict.fromkeys(breakdown.column for breakdown in BREAKDOWNS if not breakdown.is_optional)
)
"""Stored columns that every row has, without duplicates."""

OPTIONAL_COLUMNS = tuple(breakdown.column for breakdown in OPTIONAL_BREAKDOWNS)

BREAKDOWN_COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
"""All stored columns, in the order of a row."""

COLUMNS_OF_ONE_PACKAGE = frozenset(
    breakdown.column for breakdown in BREAKDOWNS if breakdown.is_of_one_package
)
"""Stored columns that are not summed over packages."""

EXPRESSIONS = {breakdown.column: breakdown.expression for breakdown in BREAKDOWNS}
"""BigQuery expression of a raw download's stored category, by column."""


def columns_with(optional: Iterable[Breakdown]) -> tuple[str, ...]:
    """Return the columns of a day with these optional breakdowns, in order."""
    chosen = {breakdown.column for breakdown in optional}
    return REQUIRED_COLUMNS + tuple(column for column in OPTIONAL_COLUMNS if column in chosen)

"""The list of dumps: one file per published day and stored month, with its figures and checksum.

`_index.json` beside the files and the response of `/api/dumps` have the same format. An instance
that ingests another instance's dumps can read either.
"""

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Literal, Self

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import DayFigures
from app.domain.events import CountedFiles
from app.domain.months import (
    MONTH_PATTERN,
    Month,
    Period,
    StoredMonth,
    days_of,
    first_day,
    parse_month,
)
from app.errors import MalformedDumpError

INDEX_NAME = "_index.json"
"""Name of the list. Arrow and pandas ignore names that begin with an underscore, so they can read
the folder as one data set.
"""

MAX_LISTING_BYTES = 4 * 2**20
"""Maximum size of a list, which has some 500 bytes per file. Its objects take 30 MB at most."""

DAY_COLUMN = "day"
MONTH_COLUMN = "month"
"""First column of a month's file, with the first day of the month."""

TOTAL_COLUMNS = ("package", "with_mirrors", "without_mirrors")

SAMPLE = "sample"
"""Source of sample data, whose figures are made up, and prefix of the names of its files."""

NAMED_DIGEST_CHARACTERS = 12

NAME = (
    r"(?:(?:downloads|sample)-([0-9]{4}-[0-9]{2}-[0-9]{2})|(?:sample-)?monthly-([0-9]{4}-[0-9]{2}))"
    r"-[0-9a-f]{12}\.(?:parquet|csv\.gz|ndjson\.gz)"
)
"""Pattern of the names of files that an export writes. The groups are the day and the month."""

Figures = DayFigures | StoredMonth
"""The record of the downloads in a file."""


class DumpFormat(StrEnum):
    PARQUET = "parquet"
    CSV = "csv"
    NDJSON = "ndjson"

    @property
    def suffix(self) -> str:
        """Ending of the names of files that an export writes."""
        return ".parquet" if self is DumpFormat.PARQUET else f".{self}.gz"

    @classmethod
    def of(cls, name: str) -> "DumpFormat":
        """Return the format of a file whose name ends with one of `FILE_SUFFIXES`."""
        return cls(name.removesuffix(".gz").rpartition(".")[2])


class DumpFile(BaseModel):
    """A file with one published day or stored month."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)

    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")] = Field(
        description="Name of the file. It changes with the figures, so the content under a name "
        "never changes."
    )
    url: str = Field(
        description="Address of the file, absolute or relative to the address of this list."
    )
    format: DumpFormat
    bytes: int = Field(description="Size of the file.", ge=1)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="Checksum of the file, in hexadecimal."
    )
    source: str = Field(
        description="Source of the figures. Those of `sample` are made up.", min_length=1
    )
    packages: int = Field(description="Number of rows of the file: downloaded packages.", ge=0)
    downloads: int = Field(description="Downloads of all packages, without known mirrors.", ge=0)
    downloads_with_mirrors: int = Field(
        description="Downloads of all packages, with known mirrors.", ge=0
    )
    digest: str = Field(description="Digest of the rows, the same in every format.")
    columns: Annotated[tuple[str, ...], FailFast()] = Field(
        description="Columns of the file, in order."
    )
    followed: str | None = Field(
        default=None,
        description="Names of the only packages that the file could contain, sorted and separated "
        "by spaces, or null for all packages. A list without this field means null.",
    )

    @property
    def period(self) -> Period:
        raise NotImplementedError

    @property
    def is_sample(self) -> bool:
        return self.source == SAMPLE

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        """Require that the name matches the other fields, because it identifies the content."""
        name = _name(self.source, self.period, self.digest, self.format)
        if self.name != name:
            raise ValueError(f"the name should be {name[:100]}, by the other fields")
        return self


class _OfDay(BaseModel):
    day: dt.date = Field(description="UTC day.")


class _OfMonth(BaseModel):
    month: Annotated[str, StringConstraints(pattern=MONTH_PATTERN)] = Field(
        description="Calendar month.", examples=["2026-05"]
    )


# The fields of the last base come first.
class Dump(DumpFile, _OfDay):
    """A file with one published day."""

    counted_files: CountedFiles = Field(
        default=CountedFiles.ALL,
        description="Files whose downloads were counted: `all` that PyPI logged, or `artifacts`. A "
        "list without this field means `all`.",
    )

    @property
    def period(self) -> dt.date:
        return self.day


class MonthDump(DumpFile, _OfMonth):
    """A file with one stored month."""

    counted_files: CountedFiles | None = Field(
        description="Files whose downloads were counted: `all` that PyPI logged, or `artifacts`. "
        "Null if the days of the month have different rules."
    )
    days: int = Field(description="Number of days whose downloads are included.", ge=1, le=31)
    missing_days: Annotated[tuple[dt.date, ...], FailFast()] = Field(
        description="Days of the month whose downloads are not included."
    )

    @property
    def period(self) -> Month:
        return parse_month(self.month)

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        days = days_of(self.period)
        missing = [day for day in days if day in self.missing_days]
        if missing != list(self.missing_days) or self.days != len(days) - len(missing):
            raise ValueError("days and missing_days should be all days of the month")
        return self


class Dumps(BaseModel):
    """The days and months that were exported to files, latest first."""

    model_config = ConfigDict(frozen=True)

    # Report only the first fault. Reporting all takes some 600 bytes of memory per byte of a list.
    data: Annotated[tuple[Dump, ...], FailFast()] = Field(description="Files of days.")
    months: Annotated[tuple[MonthDump, ...], FailFast()] = Field(
        default=(), description="Files of months. A list without this field has none."
    )
    type: Literal["dumps"]

    @classmethod
    def listed(cls, files: Iterable[DumpFile]) -> "Dumps":
        in_order = sorted(files, key=lambda file: first_day(file.period), reverse=True)
        return cls(
            data=tuple(file for file in in_order if isinstance(file, Dump)),
            months=tuple(file for file in in_order if isinstance(file, MonthDump)),
            type="dumps",
        )

    @property
    def files(self) -> tuple[Dump | MonthDump, ...]:
        return *self.data, *self.months

    def of(self, period: Period) -> Dump | MonthDump | None:
        return next((file for file in self.files if file.period == period), None)

    def render(self, base_url: str = "") -> bytes:
        """Return the list as JSON. Each file's address begins with `base_url`."""

        def values(files: Sequence[DumpFile]) -> list[dict[str, object]]:
            return [
                file.model_dump(mode="json") | {"url": f"{base_url}{file.name}"} for file in files
            ]

        return orjson.dumps(
            {"data": values(self.data), "months": values(self.months), "type": self.type}
        )


def parse(text: bytes) -> Dumps:
    """Parse a list. Raises `MalformedDumpError` for its first fault."""
    if len(text) > MAX_LISTING_BYTES:
        raise MalformedDumpError(f"it has more than {MAX_LISTING_BYTES:,} bytes")
    try:
        return Dumps.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise MalformedDumpError(f"{place}: {first['msg']}" if place else first["msg"]) from None


def breakdowns_of(figures: Figures) -> tuple[str, ...]:
    """Return the breakdown columns of a day or a month, in the order of a file's columns."""
    optional = (column for column in OPTIONAL_COLUMNS if column in figures.breakdowns)
    return (*REQUIRED_COLUMNS, *optional)


def columns_of(figures: Figures) -> tuple[str, ...]:
    """Return the columns of a file, in order."""
    first = MONTH_COLUMN if isinstance(figures, StoredMonth) else DAY_COLUMN
    return (first, *TOTAL_COLUMNS, *breakdowns_of(figures))


def name_of(figures: Figures, dump_format: DumpFormat) -> str:
    return _name(figures.source, figures.period, figures.digest, dump_format)


def dump_of(
    figures: Figures, dump_format: DumpFormat, size_bytes: int, sha256: str
) -> Dump | MonthDump:
    """Return the entry of a complete file."""
    name = name_of(figures, dump_format)
    values = asdict(figures) | {
        "name": name,
        "url": name,
        "format": dump_format,
        "bytes": size_bytes,
        "sha256": sha256,
        "columns": columns_of(figures),
    }
    if isinstance(figures, StoredMonth):
        return MonthDump.model_validate(values | {"month": str(figures.period)})
    return Dump.model_validate(values)


def read_name(name: str) -> tuple[Period, bool] | None:
    """Return the period of a dump's file and True for sample data, or None for another file."""
    found = re.fullmatch(NAME, name)
    if not found:
        return None
    day, month = found.groups()
    try:
        period = dt.date.fromisoformat(day) if day else parse_month(month)
    except ValueError:
        return None
    return period, name.startswith(SAMPLE)


def _name(source: str, period: Period, digest: str, dump_format: DumpFormat) -> str:
    is_sample = source == SAMPLE
    if isinstance(period, Month):
        kind = f"{SAMPLE}-monthly" if is_sample else "monthly"
    else:
        kind = SAMPLE if is_sample else "downloads"
    return f"{kind}-{period}-{digest[:NAMED_DIGEST_CHARACTERS]}{dump_format.suffix}"

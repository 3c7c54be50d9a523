"""The list of dumps: one file per published day, with its figures and checksum.

`_index.json` beside the files and the response of `/api/dumps` have the same format. An instance
that ingests another instance's dumps can read either.
"""

import datetime as dt
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

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
from app.errors import MalformedDumpError

INDEX_NAME = "_index.json"
"""Name of the list. Arrow and pandas ignore names that begin with an underscore, so they can read
the folder as one data set.
"""

MAX_LISTING_BYTES = 4 * 2**20
"""Maximum size of a list, which has some 500 bytes per day. Its objects take 30 MB at most."""

DAY_COLUMN = "day"
TOTAL_COLUMNS = ("package", "with_mirrors", "without_mirrors")

SAMPLE = "sample"
"""Source of sample data, whose figures are made up, and prefix of the names of its files."""

NAMED_DIGEST_CHARACTERS = 12

NAME = (
    r"(?:downloads|sample)-[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9a-f]{12}"
    r"\.(?:parquet|csv\.gz|ndjson\.gz)"
)
"""Pattern of the names of files that an export writes."""


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


class Dump(BaseModel):
    """A file with one published day."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)

    day: dt.date = Field(description="UTC day.")
    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")] = Field(
        description="Name of the file. It changes with the day's figures, so the content under a "
        "name never changes."
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
        description="Source of the day. The figures of `sample` are made up.", min_length=1
    )
    packages: int = Field(
        description="Number of rows of the file: packages downloaded that day.", ge=1
    )
    downloads: int = Field(description="Downloads of all packages, without known mirrors.", ge=0)
    downloads_with_mirrors: int = Field(
        description="Downloads of all packages, with known mirrors.", ge=1
    )
    digest: str = Field(description="Digest of the rows, the same in every format.")
    columns: Annotated[tuple[str, ...], FailFast()] = Field(
        description="Columns of the file, in order."
    )
    counted_files: CountedFiles = Field(
        default=CountedFiles.ALL,
        description="Files whose downloads were counted: `all` that PyPI logged, or `artifacts`. A "
        "list without this field means `all`.",
    )

    @property
    def is_sample(self) -> bool:
        return self.source == SAMPLE

    @model_validator(mode="after")
    def _check_name(self) -> "Dump":
        """Require that the name matches the other fields, because it identifies the content."""
        name = _name(self.source, self.day, self.digest, self.format)
        if self.name != name:
            raise ValueError(f"the name should be {name[:100]}, by the other fields")
        return self


class Dumps(BaseModel):
    """The days that were exported to files, latest first."""

    model_config = ConfigDict(frozen=True)

    # Report only the first fault. Reporting all takes some 600 bytes of memory per byte of a list.
    data: Annotated[tuple[Dump, ...], FailFast()]
    type: Literal["dumps"]

    @classmethod
    def listed(cls, dumps: Iterable[Dump]) -> "Dumps":
        in_order = sorted(dumps, key=lambda dump: dump.day, reverse=True)
        return cls(data=tuple(in_order), type="dumps")

    def of(self, day: dt.date) -> Dump | None:
        return next((dump for dump in self.data if dump.day == day), None)

    def render(self, base_url: str = "") -> bytes:
        """Return the list as JSON. Each file's address begins with `base_url`."""
        dumps = (dump.model_dump(mode="json") for dump in self.data)
        data = [{**dump, "url": f"{base_url}{dump['name']}"} for dump in dumps]
        return orjson.dumps({"data": data, "type": self.type})


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


def breakdowns_of(figures: DayFigures) -> tuple[str, ...]:
    """Return the breakdown columns of a day, in the order of a file's columns."""
    optional = (column for column in OPTIONAL_COLUMNS if column in figures.breakdowns)
    return (*REQUIRED_COLUMNS, *optional)


def columns_of(figures: DayFigures) -> tuple[str, ...]:
    """Return the columns of a day's file, in order."""
    return (DAY_COLUMN, *TOTAL_COLUMNS, *breakdowns_of(figures))


def name_of(figures: DayFigures, dump_format: DumpFormat) -> str:
    return _name(figures.source, figures.day, figures.digest, dump_format)


def read_name(name: str) -> tuple[dt.date, bool] | None:
    """Return the day of a dump's file and True for sample data, or None for another file."""
    if not re.fullmatch(NAME, name):
        return None
    kind, _, rest = name.partition("-")
    try:
        return dt.date.fromisoformat(rest[:10]), kind == SAMPLE
    except ValueError:
        return None


def _name(source: str, day: dt.date, digest: str, dump_format: DumpFormat) -> str:
    kind = SAMPLE if source == SAMPLE else "downloads"
    return f"{kind}-{day}-{digest[:NAMED_DIGEST_CHARACTERS]}{dump_format.suffix}"

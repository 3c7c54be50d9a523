"""What there is of dumps: one file a published day, and what is known of each.

The same document in two places: `index.json` beside the files, and the answer of `/api/dumps`. An
instance that reads another's dumps reads either.
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
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import DayFigures
from app.domain.events import CountedFiles
from app.errors import MalformedDumpError

INDEX_NAME = "index.json"

TOTAL_COLUMNS = ("package", "with_mirrors", "without_mirrors")


def breakdowns_of(figures: DayFigures) -> tuple[str, ...]:
    """The columns of a day's breakdowns, in the order in which files have them."""
    optional = (column for column in OPTIONAL_COLUMNS if column in figures.breakdowns)
    return (*REQUIRED_COLUMNS, *optional)


SAMPLE = "sample"
"""The source of made-up figures, by which files are named too: they are told apart wherever they
end up.
"""

NAMED_DIGEST_CHARACTERS = 12


class DumpFormat(StrEnum):
    PARQUET = "parquet"
    CSV = "csv"
    NDJSON = "ndjson"

    @property
    def suffix(self) -> str:
        """Of the files that are written."""
        return ".parquet" if self is DumpFormat.PARQUET else f".{self}.gz"

    @classmethod
    def of(cls, name: str) -> "DumpFormat":
        """By the end of a file's name, which is one of `FILE_SUFFIXES`."""
        kind = name.removesuffix(".gz").rpartition(".")[2]
        return cls(kind)


NAME = r"(?:downloads|sample)-\d{4}-\d\d-\d\d-[0-9a-f]{12}\.(?:parquet|csv\.gz|ndjson\.gz)"
"""Of the files that are written."""


class Dump(BaseModel):
    """One published day as a file."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)

    day: dt.date = Field(description="UTC day.")
    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}\z")] = Field(
        description="Of the file. Another one whenever the day's figures are others, so that what "
        "was fetched under a name stays right."
    )
    url: str = Field(
        description="Where the file is, relative to the address of this list unless it is absolute."
    )
    format: DumpFormat
    bytes: int = Field(description="Size of the file.", ge=1)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")] = Field(
        description="Checksum of the file, in hexadecimal."
    )
    source: str = Field(description="Where the day came from; `sample` is made up.", min_length=1)
    packages: int = Field(description="Rows of the file: packages downloaded that day.", ge=1)
    downloads: int = Field(description="Of all of them, known mirrors excluded.", ge=0)
    downloads_with_mirrors: int = Field(description="Of all of them.", ge=1)
    digest: str = Field(description="The same for the same rows, whatever the format.")
    columns: tuple[str, ...] = Field(description="Of the file, in order.")
    counted_files: CountedFiles = Field(
        default=CountedFiles.ALL,
        description="Which files' downloads were counted: `all` that PyPI has logged, or "
        "`artifacts`. `all` where a list does not say.",
    )

    @property
    def is_sample(self) -> bool:
        return self.source == SAMPLE

    @model_validator(mode="after")
    def _check_name(self) -> "Dump":
        """Whoever has the file without the list takes it for what its name says."""
        name = _name(self.source, self.day, self.digest, self.format)
        if self.name != name:
            raise ValueError(f"the name should be {name[:100]}, by what is told of the file")
        return self


class Dumps(BaseModel):
    """The days that there are files of, latest first."""

    model_config = ConfigDict(frozen=True)

    data: tuple[Dump, ...]
    type: Literal["dumps"]

    @classmethod
    def listed(cls, dumps: Iterable[Dump]) -> "Dumps":
        in_order = sorted(dumps, key=lambda dump: dump.day, reverse=True)
        return cls(data=tuple(in_order), type="dumps")

    def of(self, day: dt.date) -> Dump | None:
        return next((dump for dump in self.data if dump.day == day), None)

    def with_dump(self, dump: Dump) -> "Dumps":
        """With this one in place of what there was of its day."""
        return Dumps.listed([*(one for one in self.data if one.day != dump.day), dump])

    def render(self, base_url: str = "") -> bytes:
        """As JSON. Each file's address begins with `base_url`."""
        data = [
            {**dump.model_dump(mode="json"), "url": f"{base_url}{dump.name}"} for dump in self.data
        ]
        return orjson.dumps({"data": data, "type": self.type})


def read_name(name: str) -> tuple[dt.date, bool] | None:
    """The day of a dump's file and True if it is of sample data; None for any other file."""
    if not re.fullmatch(NAME, name):
        return None
    kind, _, rest = name.partition("-")
    try:
        return dt.date.fromisoformat(rest[:10]), kind == SAMPLE
    except ValueError:
        return None


def name_of(figures: DayFigures, dump_format: DumpFormat) -> str:
    return _name(figures.source, figures.day, figures.digest, dump_format)


def _name(source: str, day: dt.date, digest: str, dump_format: DumpFormat) -> str:
    kind = SAMPLE if source == SAMPLE else "downloads"
    return f"{kind}-{day}-{digest[:NAMED_DIGEST_CHARACTERS]}{dump_format.suffix}"


def parse(text: bytes) -> Dumps:
    """Raises `MalformedDumpError`, which says what is wrong first."""
    try:
        return Dumps.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise MalformedDumpError(f"{place}: {first['msg']}" if place else first["msg"]) from None

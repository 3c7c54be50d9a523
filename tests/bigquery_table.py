"""PyPI's table of raw downloads in an emulator, and raw downloads to insert."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from itertools import count
from typing import Any

from google.cloud import bigquery
from google.cloud.bigquery import SchemaField

from app.domain.breakdowns import Breakdown
from app.domain.downloads import PackageDownloads
from app.domain.events import CountedFiles
from app.domain.months import Period
from app.ingest.sources.bigquery import BigQuerySource
from app.settings import Settings
from tests.days import days_ago, rows_of


def _record(name: str, *fields: SchemaField, mode: str = "NULLABLE") -> SchemaField:
    return SchemaField(name, "RECORD", mode=mode, fields=fields)


def _texts(*names: str) -> list[SchemaField]:
    return [SchemaField(name, "STRING") for name in names]


SCHEMA = [
    SchemaField("timestamp", "TIMESTAMP", mode="REQUIRED"),
    *_texts("country_code", "url", "project", "tls_protocol", "tls_cipher"),
    _record("file", *_texts("filename", "project", "version", "type"), mode="REQUIRED"),
    _record(
        "details",
        _record("installer", *_texts("name", "version")),
        _record("implementation", *_texts("name", "version")),
        _record("system", *_texts("name", "release")),
        _record(
            "distro",
            *_texts("name", "version", "id"),
            _record("libc", *_texts("lib", "version")),
        ),
        *_texts("python", "cpu", "openssl_version", "setuptools_version", "rustc_version"),
        SchemaField("ci", "BOOLEAN"),
    ),
]
"""All columns of the public table."""

DAY = days_ago(0)
NOON = datetime.combine(DAY, time(12), UTC)
_numbers = count(1)


@dataclass(frozen=True)
class Event:
    """A raw download. The defaults make one that counts everywhere."""

    project: str | None = "flask"
    python: str | None = "3.12.1"
    installer: str | None = "pip"
    system: str | None = "Linux"
    version: str | None = "3.1.0"
    filename: str = "flask-3.1.0-py3-none-any.whl"
    at: datetime = NOON
    without_details: bool = False
    values: Mapping[str, object] = field(default_factory=dict)
    """Values of any columns by their names, such as `details.ci`."""

    def as_row(self) -> dict[str, object]:
        row: dict[str, Any] = {
            "timestamp": self.at.isoformat(),
            "country_code": "US",
            "url": "/packages/x",
            "project": self.project or "",
            "file": {
                "filename": self.filename,
                "project": self.project,
                "version": self.version,
                "type": "bdist_wheel",
            },
            "details": {
                "installer": {"name": self.installer},
                "implementation": {"name": "CPython"},
                "system": {"name": self.system},
                "python": self.python,
            },
        }
        for column, value in self.values.items():
            *records, name = column.split(".")
            record = row
            for inner in records:
                record = record.setdefault(inner, {})
            record[name] = value
        return row | {"details": None} if self.without_details else row


class Table:
    """A partitioned table in the emulator, and sources that read it."""

    def __init__(self, client: bigquery.Client) -> None:
        self.client = client
        self.id = f"emulator.pypi.file_downloads_{next(_numbers)}"
        client.create_dataset("pypi", exists_ok=True)
        table = bigquery.Table(self.id, schema=SCHEMA)
        table.time_partitioning = bigquery.TimePartitioning(field="timestamp")
        client.create_table(table)

    def insert(self, *events: Event) -> None:
        assert self.client.insert_rows_json(self.id, [event.as_row() for event in events]) == []

    def source(
        self,
        *,
        table: str | None = None,
        mirror_installers: Sequence[str] = Settings().mirror_installers,
        breakdowns: Sequence[Breakdown] = (),
        counted_files: CountedFiles = CountedFiles.ALL,
        max_bytes_billed: int = Settings().bigquery_max_bytes_billed,
    ) -> BigQuerySource:
        changes = {
            "bigquery_table": table or self.id,
            "mirror_installers": mirror_installers,
            "ingest_breakdowns": tuple(one.name for one in breakdowns),
            "ingest_counted_files": counted_files,
            "bigquery_max_bytes_billed": max_bytes_billed,
        }
        return BigQuerySource(self.client, Settings().model_copy(update=changes))

    @staticmethod
    async def read(source: BigQuerySource, period: Period = DAY) -> dict[str, PackageDownloads]:
        reading = await source.read(period, await source.begin(period))
        rows = await rows_of(reading)
        assert len(rows) == len({row.package for row in rows}), "one row a package"
        return {row.package: row for row in rows}

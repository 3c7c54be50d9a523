"""The public table of raw downloads, in an emulator, and the raw downloads that go into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from itertools import count

from google.cloud import bigquery
from google.cloud.bigquery import SchemaField

from app.domain.breakdowns import Breakdown
from app.domain.downloads import PackageDownloads
from app.domain.events import CountedFiles
from app.ingest.sources.bigquery import BigQuerySource
from app.settings import Settings
from tests.days import days_ago, rows_of

# As the public table has it, with the columns that matter here.
SCHEMA = [
    SchemaField("timestamp", "TIMESTAMP", mode="REQUIRED"),
    SchemaField("country_code", "STRING"),
    SchemaField("url", "STRING", mode="REQUIRED"),
    SchemaField("project", "STRING", mode="REQUIRED"),
    SchemaField(
        "file",
        "RECORD",
        mode="REQUIRED",
        fields=[
            SchemaField("filename", "STRING", mode="REQUIRED"),
            SchemaField("project", "STRING"),
            SchemaField("version", "STRING"),
            SchemaField("type", "STRING"),
        ],
    ),
    SchemaField(
        "details",
        "RECORD",
        fields=[
            SchemaField(
                "installer",
                "RECORD",
                fields=[SchemaField("name", "STRING"), SchemaField("version", "STRING")],
            ),
            SchemaField("python", "STRING"),
            SchemaField(
                "system",
                "RECORD",
                fields=[SchemaField("name", "STRING"), SchemaField("release", "STRING")],
            ),
            SchemaField(
                "implementation",
                "RECORD",
                fields=[SchemaField("name", "STRING"), SchemaField("version", "STRING")],
            ),
            SchemaField("ci", "BOOLEAN"),
        ],
    ),
]

DAY = days_ago(0)
_numbers = count(1)


NOON = datetime.combine(DAY, time(12), UTC)


@dataclass(frozen=True)
class Event:
    """A raw download. The defaults make one that counts everywhere."""

    project: str | None = "flask"
    python: str | None = "3.12.1"
    installer: str | None = "pip"
    system: str | None = "Linux"
    implementation: str | None = "CPython"
    ci: bool | None = None
    country: str | None = "US"
    version: str | None = "3.1.0"
    filename: str = "flask-3.1.0-py3-none-any.whl"
    at: datetime = NOON
    without_details: bool = False

    def as_row(self) -> dict[str, object]:
        details = {
            "installer": {"name": self.installer} if self.installer is not None else None,
            "python": self.python,
            "system": {"name": self.system} if self.system is not None else None,
            "implementation": (
                {"name": self.implementation} if self.implementation is not None else None
            ),
            "ci": self.ci,
        }
        return {
            "timestamp": self.at.isoformat(),
            "country_code": self.country,
            "url": "/packages/x",
            "project": self.project or "",
            "file": {
                "filename": self.filename,
                "project": self.project,
                "version": self.version,
            },
            "details": None if self.without_details else details,
        }


class Table:
    """A partitioned table of the emulator's, and what our query makes of it."""

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
        return BigQuerySource(
            self.client,
            table=table or self.id,
            mirror_installers=mirror_installers,
            breakdowns=breakdowns,
            counted_files=counted_files,
            max_bytes_billed=max_bytes_billed,
        )

    @staticmethod
    async def read(source: BigQuerySource, day: date = DAY) -> dict[str, PackageDownloads]:
        reading = await source.read(day, await source.begin(day))
        rows = await rows_of(reading)
        assert len(rows) == len({row.package for row in rows}), "one row a package"
        return {row.package: row for row in rows}

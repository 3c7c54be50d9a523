"""The query for followed packages, on the emulator."""

import re
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from google.cloud import bigquery
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.runs_repository import latest_runs
from app.domain.breakdowns import INSTALLER, VERSION, columns_with
from app.domain.downloads import PackageDownloads
from app.domain.events import ARTIFACTS_SINCE, CountedFiles
from app.errors import QueryLostError
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.sources.downloads_query import downloads_query
from app.ingest.sources.followed_days import MAX_DAYS, FollowedDaysSource
from app.settings import Settings
from tests.bigquery_table import NOON, Event, Table
from tests.clock import NOW
from tests.days import RETENTION_DAYS, days_ago, overall, rows_of

SPELLINGS = {
    "flask": ("flask", "Flask", "FLASK", "flasK", "flas\u212a"),
    "zope-interface": (
        *("zope-interface", "Zope.Interface", "zope_interface", "zope.interface"),
        *("zope--interface", "ZOPE-._-INTERFACE", "zope-.Interface", "zope-interfacE", "z.ope"),
    ),
    "2to3": ("2to3", "2To3", "2tO3"),
    "types-google-cloud-ndb": ("types-google-cloud-ndb", "types-google-cloud_NDB"),
}
OTHERS = (
    *("flas", "flask2", "flask-", "-flask", "fl-ask", "flask-login", "Flask-Login", "fla\u017fk"),
    *("zope", "zopeinterface", "zope-interfaces", "zope-inter-face", "2-to3", "zz", None),
)
DAYS = [days_ago(ago) for ago in range(3)]
BREAKDOWNS = (INSTALLER, VERSION)


@pytest.fixture(scope="module")
def table(emulator_client: bigquery.Client) -> Iterator[Table]:
    """Downloads of all spellings, with other values on each day."""
    table = Table(emulator_client)
    names = [*(name for spellings in SPELLINGS.values() for name in spellings), *OTHERS]
    table.insert(
        *(
            Event(
                project=name,
                at=NOON - timedelta(days=ago),
                python=f"3.{number % 5 + ago}.1",
                installer=("pip", "uv", "devpi", None)[(number + ago) % 4],
                version=f"1.{number % 3}",
                system=("Linux", "Windows", None)[number % 3],
            )
            for ago in range(len(DAYS))
            for number, name in enumerate(names)
            if name != "2to3" or ago != 1
        )
    )
    yield table
    emulator_client.delete_table(table.id)


def _settings(table: Table, *packages: str, **changes: object) -> Settings:
    return Settings().model_copy(
        update={"bigquery_table": table.id, "ingest_packages": tuple(sorted(packages)), **changes}
    )


def _source(table: Table, *packages: str, **changes: object) -> FollowedDaysSource:
    return FollowedDaysSource(table.client, _settings(table, *packages, **changes))


@pytest.fixture(scope="module")
async def expected(table: Table) -> list[dict[str, PackageDownloads]]:
    """The rows of each day if all packages are read."""
    everything = table.source(breakdowns=BREAKDOWNS)
    return [await table.read(everything, day) for day in DAYS]


@pytest.mark.parametrize("packages", [tuple(SPELLINGS), ("2to3", "unknown")])
async def test_figures_are_the_same_as_those_of_all_packages(
    table: Table, expected: list[dict[str, PackageDownloads]], packages: tuple[str, ...]
) -> None:
    names = tuple(one.name for one in BREAKDOWNS)
    followed = _source(table, *packages, ingest_breakdowns=names)
    assert followed.groups(DAYS) == [DAYS]
    for day, rows in zip(DAYS, expected, strict=True):
        assert await table.read(followed, day) == {
            name: row for name, row in rows.items() if name in packages
        }
    assert {*SPELLINGS} <= expected[0].keys()


async def test_one_query_counts_adjacent_days(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The emulator bills nothing.
    monkeypatch.setattr(bigquery.QueryJob, "total_bytes_billed", 10 * 2**20)
    source = _source(table, "flask")
    source.groups(DAYS)
    queries = [await source.begin(day) for day in DAYS]
    assert len(set(queries)) == 1
    for day, query in zip(DAYS, queries, strict=True):
        for _ in range(2):
            reading = await source.read(day, query)
            assert reading.bytes_billed == (10 * 2**20 if day == DAYS[0] else 0)
            assert len(await rows_of(reading)) == 1
    # The query of a day that failed is repeated for the days after it as well.
    again = await source.begin(DAYS[1])
    assert again != queries[0]
    assert await source.begin(DAYS[2]) == again
    with pytest.raises(QueryLostError, match="other counting rules"):
        await _source(table, "django").read(DAYS[0], again)


async def test_the_limit_of_bytes_is_per_day(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[bigquery.QueryJobConfig] = []
    query = table.client.query

    def record(
        sql: str, *, job_config: bigquery.QueryJobConfig, **options: Any
    ) -> bigquery.QueryJob:
        configs.append(job_config)
        return query(sql, job_config=job_config, **options)

    monkeypatch.setattr(table.client, "query", record)
    source = _source(table, "flask", bigquery_max_bytes_billed=10**9)
    source.groups(DAYS)
    await source.begin(DAYS[0])
    assert source.bytes_billed(DAYS[0]) == 0
    assert [one.maximum_bytes_billed for one in configs] == [len(DAYS) * 10**9, None]


def test_groups_have_adjacent_days_that_read_the_same_columns(table: Table) -> None:
    def sizes(ago: list[int], **changes: Any) -> list[int]:
        groups = _source(table, "flask", **changes).groups(map(days_ago, ago))
        return [len(group) for group in groups]

    assert sizes([*range(180)]) == [MAX_DAYS] * 3
    assert sizes([0, 1, 3, 4, 5, 9]) == [2, 3, 1]
    change = (days_ago(0) - ARTIFACTS_SINCE).days
    artifacts = {"ingest_counted_files": CountedFiles.ARTIFACTS}
    assert sizes([change - 1, change, change + 1], **artifacts) == [1, 2]


async def test_a_run_reads_all_days_by_one_query(table: Table, engine: AsyncEngine) -> None:
    settings = _settings(table, "flask", "2to3")
    async with ingest_lock(engine) as lock:
        run = DayIngester(
            PublishContext(engine, policy_of(settings), lambda: NOW, lock),
            _source(table, *("flask", "2to3")),
        )
        outcomes = [outcome async for outcome in run.ingest(DAYS, max_queries=1)]
    assert [outcome.error for outcome in outcomes] == [None] * len(DAYS)
    runs = await latest_runs(engine, 10)
    assert len({run.query for run in runs}) == 1
    assert len(runs) == len(DAYS)
    days = await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    assert {(day.packages, day.followed) for day in days} == {(2, "2to3 flask")}
    assert await overall(engine, "other") is None


def test_the_query_for_many_long_names_is_short_enough() -> None:
    """BigQuery accepts 1,048,576 characters."""
    random = Random(1)
    names = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=200)) for _ in range(1_000)]
    query = downloads_query("a.b.c", columns_with(()), DAYS[0], packages=names)
    assert len(query) < 1_048_576
    beginnings = tuple(re.findall(r"STARTS_WITH\(project, '(.*?)'", query))
    for other in (names[0].upper(), names[0][:150] + names[0][150:].upper()):
        assert other.startswith(beginnings)

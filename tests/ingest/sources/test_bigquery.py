"""The real client and the real query, against a server that speaks BigQuery's protocol."""

import asyncio
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, product
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.api_core.exceptions import GoogleAPICallError, RetryError, from_http_status
from google.api_core.page_iterator import Page
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError, TransportError
from google.cloud import bigquery
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app import retries
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.runs_repository import RunsRepository, latest_runs
from app.domain.breakdowns import (
    BREAKDOWN_COLUMNS,
    CI,
    COUNTRY,
    CPU,
    DISTRO,
    FILE_TYPE,
    IMPLEMENTATION,
    INSTALLER,
    INSTALLER_VERSION,
    LIBC,
    MAX_OPEN_CATEGORIES,
    OPTIONAL_BREAKDOWNS,
    PYTHON_MINOR,
    VERSION,
    Breakdown,
    columns_with,
)
from app.domain.clock import utc_now
from app.domain.days import end_of, start_of
from app.domain.downloads import PublishedDay, RunOutcome, UnparsedDownloads
from app.domain.events import ARTIFACTS_SINCE, CountedFiles
from app.domain.months import Period, days_of, parse_month
from app.errors import (
    IngestError,
    QueryLostError,
    SettingsError,
    SourceError,
    SourceUnavailableError,
)
from app.ingest.publish import PublishContext, UnchangedDay
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.sources import bigquery as bigquery_source
from app.ingest.sources import bigquery_client
from app.ingest.sources import downloads_query as query_parts
from app.ingest.sources.bigquery import BigQuerySource, create_source
from app.ingest.sources.downloads_query import downloads_query
from app.ingest.sources.source import Coverage, open_source
from app.settings import IngestSource, Settings, load_settings
from tests.bigquery_table import DAY, NOON, Event, Table
from tests.clock import NOW, ManualClock
from tests.days import (
    FORCED,
    POLICY,
    RETENTION_DAYS,
    by_category,
    days_ago,
    downloads,
    fault_of,
    ingest,
    overall,
    publish,
    rows_of,
)
from tests.processes import free_port
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def table(emulator_client: bigquery.Client) -> Iterator[Table]:
    table = Table(emulator_client)
    yield table
    emulator_client.delete_table(table.id)


# Each event, and what it adds to: with_mirrors, without_mirrors, python_minor, system.
RULES = [
    # The Python version is missing or starts like one.
    (Event(), (1, 1, "3.12", "linux")),
    (Event(python="3.9"), (1, 1, "3.9", "linux")),
    (Event(python="2.7.18+"), (1, 1, "2.7", "linux")),
    (Event(python="3.15.0a1"), (1, 1, "3.15", "linux")),
    (Event(python="3.99"), (1, 1, "3.99", "linux")),
    *(
        (Event(python=version), (1, 1, "null", "linux"))
        for version in ("3.100", "3.100.0", "0.123", f"3.{'9' * 5_000}", "3.1234rc1")
    ),
    (Event(python=None), (1, 1, "null", "linux")),
    (Event(python=""), None),
    (Event(python="3"), None),
    (Event(python="x3.9"), None),
    (Event(python="3.x"), None),
    (Event(python=" 3.9"), None),
    (Event(python="33.9"), None),
    (Event(python="CPython 3.9"), None),
    (Event(python="null"), None),
    # Known mirrors, and downloads without an installer, are in with_mirrors only.
    (Event(installer="bandersnatch"), (1, 0, None, None)),
    (Event(installer="z3c.pypimirror"), (1, 0, None, None)),
    (Event(installer="Artifactory"), (1, 0, None, None)),
    (Event(installer="devpi"), (1, 0, None, None)),
    (Event(installer=None), (1, 0, None, None)),
    (Event(without_details=True), (1, 0, None, None)),
    (Event(installer="bandersnatch", python="3.x"), None),
    (Event(installer="Bandersnatch"), (1, 1, "3.12", "linux")),
    (Event(installer="artifactory"), (1, 1, "3.12", "linux")),
    (Event(installer="devpi-client"), (1, 1, "3.12", "linux")),
    (Event(installer=""), (1, 1, "3.12", "linux")),
    (Event(installer="uv"), (1, 1, "3.12", "linux")),
    # Systems.
    (Event(system="Windows"), (1, 1, "3.12", "windows")),
    (Event(system="Darwin"), (1, 1, "3.12", "darwin")),
    (Event(system="FreeBSD"), (1, 1, "3.12", "other")),
    (Event(system="linux"), (1, 1, "3.12", "other")),
    (Event(system="null"), (1, 1, "3.12", "other")),
    (Event(system=""), (1, 1, "3.12", "other")),
    (Event(system=None), (1, 1, "3.12", "null")),
    # The UTC day, from its first microsecond to its last.
    (Event(at=datetime.combine(DAY, time.min, UTC)), (1, 1, "3.12", "linux")),
    (Event(at=datetime.combine(DAY, time.max, UTC)), (1, 1, "3.12", "linux")),
    (Event(at=datetime.combine(DAY - timedelta(1), time.max, UTC)), None),
    (Event(at=datetime.combine(DAY + timedelta(1), time.min, UTC)), None),
]


async def test_every_rule(table: Table) -> None:
    """Each event under a package of its own, all in one scan."""
    events = [
        Event(**(vars(event) | {"project": f"p{number}"}))
        for number, (event, _) in enumerate(RULES)
    ]
    table.insert(*events)
    rows = await table.read(table.source())
    for number, (event, expected) in enumerate(RULES):
        row = rows.pop(f"p{number}", None)
        if expected is None:
            assert row is None, event
            continue
        with_mirrors, without_mirrors, python, system = expected
        breakdowns = {
            "python_minor": {python: 1} if python else {},
            "system": {system: 1} if system else {},
        }
        assert row is not None, event
        assert row[1:] == (with_mirrors, without_mirrors, breakdowns), event
        assert fault_of(row) is None
    assert rows == {}


async def test_responses_are_parsed_by_orjson(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.insert(Event(project="requests"))
    source = table.source()
    monkeypatch.setattr("requests.models.complexjson.loads", None)
    assert set(await table.read(source)) == {"requests"}


async def test_sums_over_everything_at_once(table: Table) -> None:
    """The same events under the spellings of one name."""
    spellings = ("Zope.Interface", "zope_interface", "zope--interface", "ZOPE-._-INTERFACE")
    table.insert(
        *(
            Event(**(vars(event) | {"project": spellings[number % len(spellings)]}))
            for number, (event, _) in enumerate(RULES)
        ),
        Event(project="requests"),
    )
    rows = await table.read(table.source())
    assert set(rows) == {"zope-interface", "requests"}
    counted = [expected for _, expected in RULES if expected]
    row = rows["zope-interface"]
    assert row.with_mirrors == len(counted)
    assert row.without_mirrors == sum(expected[1] for expected in counted)
    for place, column in ((2, "python_minor"), (3, "system")):
        categories = [expected[place] for expected in counted if expected[place]]
        assert row.breakdowns[column] == {name: categories.count(name) for name in categories}


# Values of each optional breakdown's column in raw downloads, and the categories they count in. A
# breakdown that reads several columns has a tuple of their values.
OPTIONAL_RULES: dict[Breakdown, list[tuple[object, str]]] = {
    INSTALLER: [
        *((name, name) for name in ("pip", "uv", "poetry", "requests", "hatch")),
        ("Browser", "browser"),
        ("OS", "os"),
        ("Homebrew", "homebrew"),
        ("Bazel", "bazel"),
        # The mirror has another spelling, so this one counts.
        ("DEVPI", "devpi"),
        *((name, "other") for name in ("pip2", " pip", "other", "null", "", "x" * 10_000)),
    ],
    CI: [(True, "true"), (False, "false"), (None, "null")],
    COUNTRY: [
        ("DE", "DE"),
        ("ZZ", "ZZ"),
        *((code, "null") for code in (None, "", "de", "D", "DEU", "D1", "??", "DE\n", "ÄÖ")),
    ],
    VERSION: [
        *((name, name) for name in ("2.31.0", "1!2.0rc1.post2.dev3+local_1", "x" * 64)),
        (None, "null"),
        *(
            (version, "other")
            for version in (
                "",
                "x" * 65,
                "1.0 beta",
                "1.0\n",
                "1\u00b2",
                "\x01",
                "other",
                "0.1~dev",
            )
        ),
        *(
            (formula, "other")
            for formula in ('=HYPERLINK("x")', "=1", "+1", "-1+2", "@SUM(1)", 'a"b\\c', "1,2")
        ),
    ],
    FILE_TYPE: [
        *((name, name) for name in ("bdist_wheel", "sdist", "bdist_egg", "bdist_dmg")),
        *((name, "other") for name in ("", "metadata", "bdist_wheel ")),
        (None, "null"),
    ],
    IMPLEMENTATION: [
        ("CPython", "cpython"),
        ("PyPy", "pypy"),
        ("GraalVM", "graalvm"),
        ("Python", "other"),
        ("", "other"),
        (None, "null"),
    ],
    CPU: [
        *((name, "x86_64") for name in ("x86_64", "AMD64", "amd64")),
        *((name, "arm64") for name in ("arm64", "aarch64", "ARM64")),
        *((name, "i686") for name in ("i686", "i386", "x86")),
        *((name, name) for name in ("armv7l", "ppc64le", "riscv64", "s390x")),
        *((name, "other") for name in ("", "x86_64 ", "mips64", "other", "null", "x" * 10_000)),
        (None, "null"),
    ],
    LIBC: [
        *((("glibc", version), "glibc 2.31") for version in ("2.31", "2.31.9000", "2.31-0ubuntu9")),
        (("glibc", "2.5"), "glibc 2.5"),
        (("musl", "1.2.5"), "musl 1.2"),
        (("GLIBC", "2.17"), "glibc 2.17"),
        *((("glibc", version), "other") for version in ("", "2", "2.x", "2.100", "22.1", " 2.31")),
        *((lib, "other") for lib in (("bionic", "1.2"), ("", "2.31"), ("null", "2.31"))),
        *((lib, "null") for lib in ((None, None), ("glibc", None), (None, "2.31"))),
    ],
    DISTRO: [
        (("Ubuntu", "24.04"), "Ubuntu 24.04"),
        (("Debian GNU/Linux", "12"), "Debian GNU/Linux 12"),
        (("Alpine Linux", "3.20.3"), "Alpine Linux 3.20.3"),
        (("Pop!_OS", "22.04"), "Pop!_OS 22.04"),
        *((("Arch Linux", version), "Arch Linux") for version in (None, "")),
        (("x" * 61, "12"), "x" * 61 + " 12"),
        (("x" * 62, "12"), "other"),
        *((("Ubuntu", version), "other") for version in ("24\n", "2,4", "\u00b2")),
        *(((name, "1"), "other") for name in ("", " Ubuntu", "=1", "+1", "-1", "@SUM(1)", 'a"b')),
        *(((None, version), "null") for version in (None, "24.04")),
    ],
    # Without an installer, a download counts only in with_mirrors.
    INSTALLER_VERSION: [
        *((("pip", version), "pip 25.1") for version in ("25.1", "25.1.1", "25.1rc1")),
        (("uv", "0.8.13"), "uv 0.8"),
        (("Homebrew", "4.5.2"), "homebrew 4.5"),
        *((("Browser", version), "browser") for version in (None, "", "unknown", "5", "1.1000")),
        *(((name, "25.1"), "other") for name in ("mine", "pip 1", "other", "null", "")),
        (("mine", None), "other"),
    ],
}


async def test_every_rule_of_the_optional_breakdowns(table: Table) -> None:
    """Each value occurs in a package of its own and in a common package of its breakdown. Downloads
    by a mirror, in the common package, count nowhere here.
    """
    table.insert(
        *(
            Event(project=project, values=_by_column(breakdown, value))
            for breakdown, rules in OPTIONAL_RULES.items()
            for number, (value, _) in enumerate(rules)
            for project in (f"{_dashed(breakdown)}-{number}", f"{_dashed(breakdown)}-all")
        ),
        *(
            Event(project=f"{_dashed(breakdown)}-all", values={"details.installer.name": "devpi"})
            for breakdown in OPTIONAL_BREAKDOWNS
        ),
        *(event for event, _ in RULES if event.project == "flask"),
    )
    together = await table.read(table.source(breakdowns=OPTIONAL_BREAKDOWNS))
    for row in together.values():
        assert tuple(row.breakdowns) == BREAKDOWN_COLUMNS
        assert fault_of(row, BREAKDOWN_COLUMNS) is None
    for breakdown in OPTIONAL_BREAKDOWNS:
        rules = OPTIONAL_RULES[breakdown]
        common = together[f"{_dashed(breakdown)}-all"].breakdowns[breakdown.column]
        assert common == Counter(name for _, name in rules)
        for number, (value, category) in enumerate(rules):
            row = together[f"{_dashed(breakdown)}-{number}"]
            assert row.breakdowns[breakdown.column] == {category: 1}, value
        columns = columns_with([breakdown])
        alone = await table.read(table.source(breakdowns=[breakdown]))
        for name, row in alone.items():
            assert fault_of(row, columns) is None
            assert row[1:3] == together[name][1:3]
            assert row.breakdowns == {one: together[name].breakdowns[one] for one in columns}
        assert alone.keys() == together.keys()


def _by_column(breakdown: Breakdown, value: object) -> dict[str, object]:
    values = value if isinstance(value, tuple) else (value,)
    return dict(zip(breakdown.source_columns, values, strict=True))


def _dashed(breakdown: Breakdown) -> str:
    """Return the breakdown's name as part of a normalised project name."""
    return breakdown.name.replace("_", "-")


async def test_invented_values_add_no_categories(table: Table) -> None:
    """3,000 releases, some of them more than once, and as many installers."""
    releases = [f"1.{number}" for number in range(3_000)]
    often = releases[50:2_000:50]
    table.insert(*(Event(version=version) for version in [*releases, *often]))
    table.insert(*(Event(installer=f"forged-{number}") for number in range(3_000)))
    row = (await table.read(table.source(breakdowns=[INSTALLER, VERSION])))["flask"]
    total = 6_000 + len(often)
    assert row.breakdowns["installer"] == {"pip": total - 3_000, "other": 3_000}
    # Of those with as many downloads, the first ones as text. One is the 3,000 events' own.
    kept = {"3.1.0": 3_000} | dict.fromkeys(often, 2)
    once = sorted(set(releases) - set(often))[: MAX_OPEN_CATEGORIES - len(kept)]
    kept |= dict.fromkeys(once, 1)
    assert row.breakdowns["version"] == kept | {"other": total - sum(kept.values())}


async def test_every_breakdown_with_open_categories_is_limited(table: Table) -> None:
    many = 2 * MAX_OPEN_CATEGORIES
    table.insert(
        *(
            Event(
                version=f"1.{number}",
                values={
                    "details.distro.name": f"Linux {number}",
                    "details.installer.version": f"1.{number}",
                },
            )
            for number in range(many)
        )
    )
    opened = [one for one in OPTIONAL_BREAKDOWNS if one.max_categories]
    row = (await table.read(table.source(breakdowns=opened)))["flask"]
    for breakdown in opened:
        counts = row.breakdowns[breakdown.column]
        assert len(counts) == MAX_OPEN_CATEGORIES + 1
        assert counts["other"] == many - MAX_OPEN_CATEGORIES


async def test_a_release_named_other_counts_as_other(table: Table) -> None:
    """This is so whether or not it is among the most downloaded releases."""
    releases = [f"1.{number}" for number in range(MAX_OPEN_CATEGORIES)]
    table.insert(
        *(Event(version=version) for version in [*releases, *releases]),
        *(Event(project="often", version=version) for version in [*releases, "other", "other"]),
        Event(version="other"),
        Event(version="1.1000"),
    )
    rows = await table.read(table.source(breakdowns=[VERSION]))
    assert rows["flask"].breakdowns["version"] == dict.fromkeys(releases, 2) | {"other": 2}
    left_out = max(releases)
    kept = dict.fromkeys(releases, 1) | {"other": 3}
    del kept[left_out]
    assert rows["often"].breakdowns["version"] == kept


def test_the_query_reads_no_columns_of_other_breakdowns() -> None:
    always = downloads_query("a.b.c", columns_with(()), DAY)
    for chosen in (*((one,) for one in OPTIONAL_BREAKDOWNS), OPTIONAL_BREAKDOWNS, ()):
        query = downloads_query("a.b.c", columns_with(chosen), DAY)
        for breakdown in OPTIONAL_BREAKDOWNS:
            own = [column for column in breakdown.source_columns if column not in always]
            assert bool(own) == bool(breakdown.billed_bytes)
            for column in own:
                assert (column in query) == (breakdown in chosen)
        assert query.count("FROM `a.b.c`") == 1, "the table is scanned once"
        assert not re.search(r"\{[a-z_]+\}", query)


ARTIFACTS = ["a-1.0-py3-none-any.whl", "a-1.0.tar.gz", "a-1.0.zip"]
FILES_OF_A_DAY = ["a-1.0.tar.gz", "a-1.0-py3-none-any.whl.metadata"]
OTHER_FILES = [
    "a-1.0-py3-none-any.whl.metadata",
    "a-1.0-py3-none-any.whl.asc",
    "a-1.0.tar.gz.asc",
    "a-1.0.zip.metadata",
    "a-1.0-py2.7.egg",
    "a-1.0.win32.exe",
    "a-1.0.tar.bz2",
    "a-1.0whl",
    "a-1.0.gz",
]


@pytest.mark.parametrize("day", [ARTIFACTS_SINCE - timedelta(30), ARTIFACTS_SINCE])
async def test_which_files_count_until_pypi_counts_only_artifacts(table: Table, day: date) -> None:
    """The day of the change was partly counted by the rule before."""
    noon = datetime.combine(day, time(12), UTC)
    for installer, project in (("pip", None), ("bandersnatch", "flask")):
        table.insert(
            *(
                Event(project=project or name, filename=name, at=noon, installer=installer)
                for name in (*ARTIFACTS, *OTHER_FILES)
            )
        )
    by_all = await table.read(table.source(breakdowns=OPTIONAL_BREAKDOWNS), day)
    source = table.source(breakdowns=OPTIONAL_BREAKDOWNS, counted_files=CountedFiles.ARTIFACTS)
    by_artifacts = await table.read(source, day)
    assert by_all.pop("flask").with_mirrors == len(ARTIFACTS) + len(OTHER_FILES)
    assert by_artifacts.pop("flask").with_mirrors == len(ARTIFACTS)
    names = [re.sub("[-_.]+", "-", name) for name in ARTIFACTS]
    assert by_all.keys() == {*names, *(re.sub("[-_.]+", "-", name) for name in OTHER_FILES)}
    assert by_artifacts == {name: by_all[name] for name in names}
    assert source.counted_files(day) is CountedFiles.ARTIFACTS


@pytest.mark.parametrize("rule", CountedFiles)
async def test_a_month_counts_all_of_its_days_and_no_others(
    table: Table, rule: CountedFiles
) -> None:
    """Months of 28, 29, 30 and 31 days, with a download of each of two files on every day."""
    months = [parse_month(text) for text in ("2023-02", "2024-02", "2023-04", "2023-12")]
    moments = []
    for month in months:
        begin, end = start_of(month.first), end_of(month.last)
        moments += [begin - timedelta(microseconds=1), end]
        moments += [start_of(day) + timedelta(hours=9) for day in days_of(month)]
        moments += [begin, end - timedelta(microseconds=1)]
    table.insert(
        *(Event(at=moment, filename=name) for moment in moments for name in FILES_OF_A_DAY)
    )
    source = table.source(breakdowns=[CI], counted_files=rule)
    for month in months:
        count = (len(days_of(month)) + 2) * (2 if rule is CountedFiles.ALL else 1)
        (row,) = (await table.read(source, month)).values()
        assert row == (
            *("flask", count, count),
            {"python_minor": {"3.12": count}, "system": {"linux": count}, "ci": {"null": count}},
        )
        assert source.coverage(month) == Coverage(rule)


@pytest.mark.usefixtures("quick_retries")
async def test_an_interrupted_import_of_a_month_reads_the_same_query(
    table: Table, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    month = parse_month("2024-02")
    table.insert(
        *(Event(at=start_of(day), project=f"p{day.day % 3}") for day in days_of(month)),
        Event(project=None, at=start_of(month.first)),
    )
    await publish(engine, DAY, downloads("flask", 1))
    source = table.source()
    submitted = _submitted(source)
    run = DayIngester(PublishContext(engine, POLICY, lambda: NOW), source)

    def break_off(*_: object) -> None:
        raise requests.ConnectionError("broke off")

    with monkeypatch.context() as patch:
        patch.setattr(bigquery_source, "_next_page", break_off)
        with pytest.raises(SourceUnavailableError, match="broke off"):
            await run.import_month(month)
    imported = await run.import_month(month)
    assert submitted == [month]
    assert (imported.packages, imported.downloads, imported.days) == (3, 29, 29)
    assert (imported.source, imported.counted_files) == ("bigquery", CountedFiles.ALL)
    runs = await latest_runs(engine, 9)
    assert [(one.period, one.outcome) for one in runs] == [
        (month, RunOutcome.PUBLISHED),
        (month, RunOutcome.FAILED),
    ]
    assert runs[0].query == runs[1].query
    assert (runs[0].bytes_billed, runs[1].bytes_billed) == (None, 0)


def test_file_names_are_read_only_if_they_decide() -> None:
    for day, counted_files in product(
        (ARTIFACTS_SINCE - timedelta(1), ARTIFACTS_SINCE, ARTIFACTS_SINCE + timedelta(1)),
        CountedFiles,
    ):
        query = downloads_query("a.b.c", columns_with(OPTIONAL_BREAKDOWNS), day, counted_files)
        decide = counted_files is CountedFiles.ARTIFACTS and day <= ARTIFACTS_SINCE
        assert ("filename" in query) == decide


async def test_a_query_by_another_rule_has_another_id(table: Table) -> None:
    """The ids differ even if both rules count the same files, because a day records its rule."""
    table.insert(Event())
    query = await table.source().begin(DAY)
    with pytest.raises(QueryLostError, match="other counting rules"):
        await table.source(counted_files=CountedFiles.ARTIFACTS).read(DAY, query)


async def test_a_day_that_was_read_by_the_other_rule_is_replaced(
    table: Table, engine: AsyncEngine
) -> None:
    """Although it has less, and although its partition has not changed."""
    day = ARTIFACTS_SINCE - timedelta(30)
    noon = datetime.combine(day, time(12), UTC)
    table.insert(*(Event(filename=name, at=noon) for name in (*ARTIFACTS, *OTHER_FILES)))
    expected = {CountedFiles.ALL: len(ARTIFACTS) + len(OTHER_FILES), CountedFiles.ARTIFACTS: 3}
    read = DownloadsRepository(engine, RETENTION_DAYS)
    versions = set()
    for rule in (CountedFiles.ALL, CountedFiles.ARTIFACTS, CountedFiles.ALL):
        async with ingest_lock(engine) as lock:
            source = table.source(counted_files=rule)
            ingester = DayIngester(
                PublishContext(engine, replace(POLICY, only_if_changed=True), lambda: NOW, lock),
                source,
            )
            assert isinstance(await ingester.ingest_day(day), PublishedDay)
            assert isinstance(await ingester.ingest_day(day), UnchangedDay)
        (published,) = await read.published_days()
        assert (published.counted_files, published.downloads) == (rule, expected[rule])
        publication = await read.publication()
        assert publication
        assert publication.counted_files == {day: rule}
        versions.add(publication.version)
    assert len(versions) == 2


async def test_a_day_of_the_same_rows_is_replaced_for_its_rule(
    table: Table, engine: AsyncEngine
) -> None:
    table.insert(Event())
    read = DownloadsRepository(engine, RETENTION_DAYS)
    versions = []
    for rule in CountedFiles:
        async with ingest_lock(engine) as lock:
            source = table.source(counted_files=rule)
            ingester = DayIngester(PublishContext(engine, POLICY, lambda: NOW, lock), source)
            await ingester.ingest_day(DAY)
        publication = await read.publication()
        assert publication
        assert publication.counted_files == {DAY: rule}
        versions.append(publication.version)
    assert versions[0] != versions[1], "what is compared changes"


async def test_a_query_with_other_breakdowns_has_another_id(table: Table) -> None:
    table.insert(Event())
    query = await table.source(breakdowns=[CI]).begin(DAY)
    with pytest.raises(QueryLostError, match="other counting rules"):
        await table.source(breakdowns=[COUNTRY]).read(DAY, query)


async def test_installers_that_are_mirrors_are_a_setting(table: Table) -> None:
    table.insert(Event(installer="bandersnatch"), Event(installer="pip"), Event(installer="uv"))
    row = (await table.read(table.source(mirror_installers=["pip", "uv"])))["flask"]
    assert (row.with_mirrors, row.without_mirrors) == (3, 1)


async def test_rows_come_in_pages(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery_source, "PAGE_ROWS", 10)
    table.insert(*(Event(project=f"p{number}") for number in range(25)))
    source = table.source()
    reading = await source.read(DAY, await source.begin(DAY))
    batches = [len(batch) async for batch in reading.batches]
    assert sum(batches) == 25
    assert max(batches) == 10


async def test_a_day_from_events_to_answers(table: Table, engine: AsyncEngine) -> None:
    """One project has an invalid name, and one download has no name."""
    table.insert(
        Event(),
        Event(python="3.9.1", installer="bandersnatch"),
        Event(project="a" * 201),
        Event(project=None),
    )
    published = await ingest(engine, table.source(), DAY)
    assert isinstance(published, PublishedDay)
    assert (published.source, published.packages, published.downloads) == ("bigquery", 1, 1)
    assert await overall(engine, "flask") == {
        "with_mirrors": [(DAY, 2)],
        "without_mirrors": [(DAY, 1)],
    }
    assert await by_category(engine, "flask", PYTHON_MINOR) == {"3.12": [(DAY, 1)]}


async def test_a_day_without_events_is_an_error(table: Table, engine: AsyncEngine) -> None:
    with pytest.raises(IngestError, match="nothing was published"):
        await ingest(engine, table.source(), DAY)


async def test_a_missing_table(table: Table) -> None:
    with pytest.raises(SourceError, match=r"^BigQuery: .*nothing") as caught:
        await table.read(table.source(table="emulator.pypi.nothing"))
    assert "\n" not in str(caught.value)


async def test_a_dry_run_sends_the_same_query(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    query = table.client.query

    def record(
        sql: str, *, job_config: bigquery.QueryJobConfig, **options: Any
    ) -> bigquery.QueryJob:
        asked.append((sql, job_config))
        return query(sql, job_config=job_config, **options)

    monkeypatch.setattr(table.client, "query", record)
    source = table.source(max_bytes_billed=10**9)
    # The emulator bills nothing: that it answers a number is what there is to see here.
    assert source.bytes_billed(DAY) == 0
    await table.read(source)
    (dry_sql, dry), (sql, config) = asked
    assert dry_sql == sql
    assert table.id in sql
    assert sql.upper().count("FROM `") == 1, "the table is scanned once"
    assert dry.query_parameters == config.query_parameters
    assert (dry.dry_run, config.dry_run) == (True, False)
    # The limit applies to each day that a query reads.
    await source.begin(parse_month("2026-02"))
    assert asked[-1][1].maximum_bytes_billed == 28 * 10**9
    # A dry run also tells what would be refused.
    assert (dry.maximum_bytes_billed, config.maximum_bytes_billed) == (None, 10**9)
    assert config.use_query_cache is False


async def test_fewer_rows_than_announced_are_an_error(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigquery_source, "PAGE_ROWS", 10)
    table.insert(*(Event(project=f"p{number}") for number in range(25)))
    next_page = bigquery_source._next_page

    def lose_a_row(pages: Iterator[Page], columns: int) -> UnparsedDownloads | None:
        page = next(pages, None)
        if page is None:
            return None
        page.raw_page["rows"].pop()
        return next_page(iter([page]), columns)

    monkeypatch.setattr(bigquery_source, "_next_page", lose_a_row)
    with pytest.raises(SourceError, match="announced 25 rows and sent 22"):
        await table.read(table.source())


async def test_a_query_is_read_again_and_not_by_other_rules(table: Table) -> None:
    table.insert(Event(), Event(installer="devpi"))
    source = table.source()
    query = await source.begin(DAY)
    table.insert(Event())
    for _ in range(2):
        reading = await source.read(DAY, query)
        (row,) = await rows_of(reading)
        assert (row.with_mirrors, row.without_mirrors) == (2, 1), "as it was when it was asked"
    for other in (table.source(mirror_installers=[]), table.source(table="a.b.c")):
        with pytest.raises(QueryLostError, match="other counting rules"):
            await other.read(DAY, query)
    with pytest.raises(QueryLostError, match="no longer exists"):
        await source.read(DAY, f"{query}x")


def test_a_query_is_named_by_all_of_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the service may have another query, for some days or for all."""
    source = BigQuerySource(
        bigquery.Client(project="none", credentials=AnonymousCredentials()),
        Settings(ingest_counted_files=CountedFiles.ARTIFACTS),
    )
    days = [ARTIFACTS_SINCE, ARTIFACTS_SINCE + timedelta(days=1)]
    names = [source._rules(day) for day in days]
    assert [source._rules(day) for day in days] == names
    monkeypatch.setattr(query_parts, "ONLY_ARTIFACTS", "TRUE")
    assert [source._rules(day) == name for day, name in zip(days, names, strict=True)] == [
        False,
        True,
    ]
    monkeypatch.setitem(query_parts.LIMITS, VERSION.column, MAX_OPEN_CATEGORIES + 1)
    assert source._rules(days[1]) != names[1]


async def test_an_empty_page_is_not_the_end(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.insert(Event())
    next_page = bigquery_source._next_page
    before = [Page(None, [], lambda *_: None, raw_page={})]

    def empty_page_first(pages: Iterator[Page], columns: int) -> UnparsedDownloads | None:
        return next_page(iter([before.pop()]) if before else pages, columns)

    monkeypatch.setattr(bigquery_source, "_next_page", empty_page_first)
    assert set(await table.read(table.source())) == {"flask"}


def test_cost() -> None:
    assert bigquery_source.cost_usd(2 * 2**40) == 12.5


async def test_without_mirrors_a_download_still_needs_an_installer(table: Table) -> None:
    table.insert(Event(installer="devpi"), Event(installer=None))
    row = (await table.read(table.source(mirror_installers=[])))["flask"]
    assert (row.with_mirrors, row.without_mirrors) == (2, 1)


@pytest.fixture
def _threads_end() -> Iterator[None]:
    """Those of calls that were given up, too: Google's client waits for random times, and a test
    with random data notices who else draws.
    """
    yield
    for thread in threading.enumerate():
        if thread.name == "bigquery":
            thread.join(timeout=PATIENCE_SECONDS)
            assert not thread.is_alive()


@pytest.fixture
def listener(_threads_end: None) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


@pytest.fixture
def silent_host(listener: socket.socket) -> str:
    """A server that accepts connections and never answers."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_silent_server_times_out(silent_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery_source, "CALL_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(bigquery_source, "RETRY_FOR_SECONDS", 0.1)
    source = create_source(Settings(bigquery_emulator_host=silent_host))
    with pytest.raises(SourceError):
        await source.begin(DAY)


@contextmanager
def _unfinished(emulator_host: str, hangs: Callable[[bytes], bool]) -> Iterator[str]:
    """Serve the emulator, but never finish the queries whose request `hangs` selects."""
    job = {
        "kind": "bigquery#job",
        "id": "emulator:US.unfinished",
        "jobReference": {"projectId": "emulator", "jobId": "unfinished", "location": "US"},
        "configuration": {"jobType": "QUERY", "query": {"query": ""}},
        "status": {"state": "RUNNING"},
        "jobComplete": False,
    }

    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = 200, json.dumps(job).encode()
            if hangs(body) or "unfinished" in self.path:
                # BigQuery waits for the query before it answers. Clients do not pause themselves.
                closing.wait(0.1)
            else:
                answer = requests.request(
                    self.command,
                    emulator_host + self.path,
                    data=body,
                    headers={"Content-Type": "application/json"},
                )
                status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - names that the server asks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        closing.set()
        server.shutdown()


@pytest.mark.usefixtures("_threads_end")
async def test_a_query_that_never_ends_fails_its_day_and_no_other(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    for name in ("CHECK_TIMEOUT_SECONDS", "QUERY_TIMEOUT_SECONDS", "RETRY_FOR_SECONDS"):
        monkeypatch.setattr(bigquery_source, name, 1)
    days = [days_ago(0), days_ago(1)]
    with _unfinished("", lambda _: True) as host:
        source = create_source(Settings(bigquery_emulator_host=host))
        async with ingest_lock(engine) as lock:
            run = DayIngester(PublishContext(engine, FORCED, lambda: NOW, lock), source)
            outcomes = [outcome async for outcome in run.ingest(days)]
    assert [outcome.period for outcome in outcomes] == days
    for outcome in outcomes:
        assert isinstance(outcome.error, SourceUnavailableError)
        assert "no answer within 1 s" in str(outcome.result)


async def test_the_process_does_not_wait_for_calls_that_timed_out(
    silent_host: str, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigquery_source, "RETRY_FOR_SECONDS", 1)
    source = create_source(Settings(bigquery_emulator_host=silent_host))
    reading = asyncio.ensure_future(source.begin(DAY))
    listener.settimeout(PATIENCE_SECONDS)
    connection, _ = await asyncio.to_thread(listener.accept)
    reading.cancel()
    done, _ = await asyncio.wait([reading], timeout=PATIENCE_SECONDS)
    assert done
    connection.close()


def _refusal(status: int, reason: str) -> GoogleAPICallError:
    """An error as BigQuery words it."""
    error: GoogleAPICallError = from_http_status(
        status, "told", errors=[{"reason": reason, "message": "told", "domain": "global"}]
    )
    return error


@pytest.mark.parametrize(
    ("error", "is_temporary"),
    [
        (_refusal(503, "backendError"), True),
        (_refusal(500, "internalError"), True),
        (_refusal(429, "rateLimitExceeded"), True),
        (_refusal(403, "rateLimitExceeded"), True),
        (requests.ConnectionError("reset"), True),
        (requests.exceptions.ChunkedEncodingError("cut off"), True),
        (RetryError("Timeout of 60.0s exceeded", ConnectionError()), True),
        (TransportError("no route"), True),
        (RefreshError("the token's server is busy", retryable=True), True),
        (TimeoutError(), True),
        (orjson.JSONDecodeError("cut off", "{", 1), True),
        (_refusal(403, "accessDenied"), False),
        (_refusal(403, "quotaExceeded"), False),
        (_refusal(403, "billingNotEnabled"), False),
        (_refusal(400, "invalidQuery"), False),
        (_refusal(400, "bytesBilledLimitExceeded"), False),
        (_refusal(400, "resourcesExceeded"), False),
        (_refusal(404, "notFound"), False),
        (_refusal(401, "authError"), False),
        (RefreshError("invalid_grant"), False),
    ],
    ids=repr,
)
def test_temporary_errors_are_recognised(error: Exception, is_temporary: bool) -> None:
    with pytest.raises(SourceError) as caught, bigquery_client.source_errors():
        raise error
    assert caught.value.is_temporary == is_temporary
    assert str(caught.value).startswith("BigQuery: ")


# Credentials


SERVICE_ACCOUNT = (
    '{"type": "service_account", "client_email": "a@b.example", "token_uri": "http://127.0.0.1/",'
    ' "private_key": "nonsense"}'
)


def test_the_emulator_needs_no_credentials(
    emulator_host: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(Settings(bigquery_emulator_host=emulator_host), IngestSource.BIGQUERY)
    assert isinstance(source, BigQuerySource)
    assert source.name == "bigquery"
    assert "BIGQUERY_EMULATOR_HOST is set" in caplog.text


def test_the_error_without_credentials_lists_the_settings() -> None:
    with pytest.raises(SettingsError) as caught:
        create_source(Settings())
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT_JSON", "INGEST_SOURCE"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def service_account() -> str:
    """A key as Google hands them out, of an account that there is not."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return json.dumps(
        json.loads(SERVICE_ACCOUNT) | {"private_key": key.decode(), "project_id": "ours"}
    )


def _project(settings: Settings) -> str:
    project: str = create_source(settings)._client.project
    return project


def test_a_key_names_the_project_unless_a_setting_does(
    service_account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SecretStr(service_account)
    assert _project(Settings(google_service_account_json=key)) == "ours"
    assert _project(Settings(google_service_account_json=key, bigquery_project="other")) == "other"

    path = tmp_path / "key.json"
    path.write_text(service_account)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    assert _project(load_settings()) == "ours"


def test_a_key_without_a_project_is_not_enough(service_account: str) -> None:
    key = json.loads(service_account)
    del key["project_id"]
    with pytest.raises(SettingsError, match=r"^BIGQUERY_PROJECT: "):
        create_source(Settings(google_service_account_json=SecretStr(json.dumps(key))))


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        *("[]", '"key"', "5", "null"),
        *('{"type": "service_account"}', '{"type": ["service_account"]}'),
        SERVICE_ACCOUNT.replace('"type"', '"token_uri": 5, "type"'),
    ],
)
def test_a_file_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(SettingsError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        create_source(load_settings())


def test_the_error_of_an_invalid_key_does_not_contain_it() -> None:
    with pytest.raises(SettingsError, match="GOOGLE_SERVICE_ACCOUNT_JSON") as caught:
        create_source(Settings(google_service_account_json=SecretStr(SERVICE_ACCOUNT)))
    assert "nonsense" not in str(caught.value)


async def test_an_unreachable_server_is_one_line(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    source = create_source(Settings(bigquery_emulator_host=host))
    monkeypatch.setattr(bigquery_source, "RETRY_FOR_SECONDS", 0.5)
    with pytest.raises(SourceError) as caught:
        await ingest(engine, source, DAY)
    assert "\n" not in str(caught.value)


# Partitions


async def test_a_partition_has_rows_and_a_time(table: Table) -> None:
    source = table.source()
    assert await source.partition(DAY) is None
    table.insert(Event(), Event(python="x"), Event(at=NOON - timedelta(days=1)))
    first = await source.partition(DAY)
    assert first
    assert first.rows == 2
    assert first.modified_at.tzinfo is not None
    assert await source.partition(DAY) == first
    table.insert(Event())
    second = await source.partition(DAY)
    assert second
    assert second.rows == 3


async def test_a_day_is_billed_again_only_if_its_partition_has_changed(
    table: Table, engine: AsyncEngine, clock: ManualClock
) -> None:
    """Published young, checked a day later, and grown after that."""
    table.insert(Event())
    source = table.source()
    submitted = _submitted(source)
    policy = replace(POLICY, only_if_changed=True)

    async def read() -> RunOutcome:
        clock.advance(days=1)
        async with ingest_lock(engine) as lock:
            await DayIngester(PublishContext(engine, policy, clock, lock), source).ingest_day(DAY)
        (run,) = await latest_runs(engine, 1)
        assert run.partition == await source.partition(DAY)
        (published,) = await DownloadsRepository(engine, RETENTION_DAYS).published_days()
        assert published.partition == run.partition
        assert published.checked_at <= clock()
        return run.outcome

    assert await read() is RunOutcome.PUBLISHED
    assert await read() is RunOutcome.UNCHANGED
    assert await read() is RunOutcome.UNCHANGED
    assert len(submitted) == 1
    table.insert(Event())
    assert await read() is RunOutcome.PUBLISHED
    # Rows that do not count change the partition once.
    table.insert(Event(python="x"))
    assert await read() is RunOutcome.UNCHANGED
    assert len(submitted) == 3
    assert await read() is RunOutcome.UNCHANGED
    assert len(submitted) == 3


def _submitted(source: BigQuerySource) -> list[Period]:
    """Record the days whose query is submitted from now on."""
    days: list[Period] = []
    begin = source.begin

    async def record(period: Period) -> str:
        days.append(period)
        return await begin(period)

    source.begin = record  # type: ignore[method-assign]
    return days


@pytest.mark.usefixtures("_threads_end")
async def test_a_check_of_partitions_that_hangs_leaves_time_for_the_day(
    table: Table,
    emulator_host: str,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(bigquery_source, "CHECK_TIMEOUT_SECONDS", 1, raising=False)
    monkeypatch.setattr(bigquery_source, "QUERY_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    bigquery_source._unreadable_datasets.clear()
    table.insert(Event())
    async with ingest_lock(engine) as lock:
        context = PublishContext(engine, POLICY, lambda: NOW, lock)
        with _unfinished(emulator_host, lambda body: b"INFORMATION_SCHEMA" in body) as host:
            settings = Settings(bigquery_emulator_host=host, bigquery_table=table.id)
            async with asyncio.timeout(PATIENCE_SECONDS / 2):
                published = await DayIngester(context, create_source(settings)).ingest_day(DAY)
    assert isinstance(published, PublishedDay)
    assert (published.downloads, published.partition) == (1, None)
    (line,) = (line for line in caplog.messages if "PARTITIONS" in line)
    assert line.startswith("emulator.pypi.INFORMATION_SCHEMA.PARTITIONS can't be read")
    assert line.endswith("no answer within 1 s")


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [403, 404, 400, 503])
async def test_without_access_to_partitions_days_are_read_as_they_are(
    table: Table,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    """A process logs the missing access in one line."""
    table.insert(Event())
    query = table.client.query
    jobs = count()

    def refuse(sql: str, *arguments: Any, **options: Any) -> Any:
        if "INFORMATION_SCHEMA" in sql:
            message = f"Access Denied: no permission to get the table (job {next(jobs)})"
            raise from_http_status(status, message)
        return query(sql, *arguments, **options)

    monkeypatch.setattr(table.client, "query", refuse)
    bigquery_source._unreadable_datasets.clear()
    policy = replace(POLICY, only_if_changed=True)
    for _ in range(2):
        source = table.source()
        submitted = _submitted(source)
        assert await source.partition(DAY) is None
        await ingest(engine, source, DAY, policy)
        assert submitted == [DAY]
    retries_logged = [line for line in caplog.messages if "trying again" in line]
    assert bool(retries_logged) == (status == 503)
    (line,) = (line for line in caplog.messages if line not in retries_logged)
    assert "PARTITIONS can't be read" in line
    assert "Access Denied" in line


@pytest.mark.usefixtures("quick_retries")
async def test_a_check_of_partitions_is_retried_before_a_day_is_billed_again(
    table: Table,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two checks in a row have one error each that passes. The third has only errors, and the
    fourth succeeds, so the fifth logs the cause again.
    """
    table.insert(Event())
    query = table.client.query
    failures: list[int] = []

    def fail(sql: str, *arguments: Any, **options: Any) -> Any:
        if "INFORMATION_SCHEMA" in sql and failures and failures.pop():
            raise from_http_status(503, "The service is unavailable")
        return query(sql, *arguments, **options)

    monkeypatch.setattr(table.client, "query", fail)
    bigquery_source._unreadable_datasets.clear()
    source = table.source()
    submitted = _submitted(source)
    policy = replace(POLICY, only_if_changed=True)
    await ingest(engine, source, DAY, policy)
    for _ in range(2):
        failures[:] = [False, True]
        assert isinstance(await ingest(engine, source, DAY, policy), UnchangedDay)
    assert submitted == [DAY]
    lines = []
    for is_down in (True, False, True):
        caplog.clear()
        failures[:] = [is_down] * retries.ATTEMPTS
        assert (await source.partition(DAY) is None) is is_down
        lines.append([line for line in caplog.messages if "PARTITIONS can't be read" in line])
    assert [len(logged) for logged in lines] == [1, 0, 1]


async def test_a_reused_query_counts_as_read_when_it_ran(table: Table, engine: AsyncEngine) -> None:
    """The result is read much later, and the partition has changed meanwhile."""
    table.insert(Event())
    source = table.source()
    partition = await source.partition(DAY)
    query = await source.begin(DAY)
    runs = RunsRepository(engine)
    later = utc_now() + timedelta(hours=19)
    run = await runs.begin(DAY, source.name, later - timedelta(hours=19))
    await runs.record_query(run, query, partition)
    await runs.end(run, RunOutcome.FAILED, later)
    table.insert(Event())
    async with ingest_lock(engine) as lock:
        result = await DayIngester(
            PublishContext(engine, POLICY, lambda: later, lock), source
        ).ingest_day(DAY)
    assert isinstance(result, PublishedDay)
    assert result.downloads == 1
    assert result.checked_at < later - timedelta(hours=18)
    assert result.published_at == later
    assert result.partition == partition
    # So the next check finds that there is more.
    grown = await ingest(engine, source, DAY, replace(POLICY, only_if_changed=True))
    assert isinstance(grown, PublishedDay)

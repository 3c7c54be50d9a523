"""Compares what is stored and served with the truth, and counts what differs."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import date
from time import monotonic

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.months import month_of, unpack
from app.ingest.verification import days_to_verify, verify
from app.main import create_app
from app.settings import IngestSource, Settings
from tests.faults.tally import Tally
from tests.faults.truth import Days, Figure, answers, figures

RETENTION_DAYS = 30

ANSWER_SECONDS = 5.0
"""That a reader waits at most, on a busy machine: who is blocked waits for longer."""


async def stored(engine: AsyncEngine) -> tuple[set[date], Counter[Figure]]:
    """The published days and all figures, however they came there."""
    query = """
        SELECT name, date, series, category, downloads
        FROM daily_downloads LEFT JOIN packages ON packages.id = package_id
        CROSS JOIN LATERAL (
            VALUES ('overall', 'with_mirrors', with_mirrors),
                   ('overall', 'without_mirrors', without_mirrors)
            UNION ALL
            SELECT 'python_minor', key, CAST(value AS bigint) FROM json_each_text(python_minor)
            UNION ALL
            SELECT 'python_major', split_part(key, '.', 1), CAST(value AS bigint)
            FROM json_each_text(python_minor)
            UNION ALL
            SELECT 'system', key, CAST(value AS bigint) FROM json_each_text(system)
        ) AS found (series, category, downloads)
    """
    counts: Counter[Figure] = Counter()
    async with engine.connect() as connection:
        days = await connection.scalars(text("SELECT day FROM ingested_days"))
        for *figure, downloads in await connection.execute(text(query)):
            name, day, series, category = figure
            counts[name, day, series, category] += downloads
    return set(days), counts


async def audit_stored(tally: Tally, engine: AsyncEngine, days: Days) -> None:
    published, found = await stored(engine)
    truth = figures(days)
    above = {figure for figure in found | truth if found[figure] > truth[figure]}
    short = {figure[1] for figure in truth if found[figure] < truth[figure]}
    lost = short | (days.keys() - published)
    tally.double_counts += len(above)
    tally.days_lost += len(lost)
    assert (above, lost) == (set(), set())
    assert published == days.keys()
    async for step in verify(engine, await days_to_verify(engine, None), packages=True):
        assert list(step.differences) == []


async def audit_months(tally: Tally, engine: AsyncEngine, days: Days) -> None:
    """Compare the stored months with the sums of these days."""
    truth: Counter[Figure] = Counter()
    for (package, day, series, category), downloads in figures(days).items():
        if series != "python_major":
            truth[package, month_of(day), series, category] += downloads
    found: Counter[Figure] = Counter()
    query = (
        "SELECT name, month, with_mirrors, without_mirrors, python_minor, system, categories "
        "FROM monthly_downloads JOIN packages ON packages.id = package_id "
        "JOIN stored_months USING (month)"
    )
    async with engine.connect() as connection:
        for name, month, *totals, versions, systems, categories in await connection.execute(
            text(query)
        ):
            overall = dict(zip(("with_mirrors", "without_mirrors"), totals, strict=True))
            minor = unpack(versions, categories["python_minor"])
            system = unpack(systems, categories["system"])
            for series, counts in (
                ("overall", overall),
                ("python_minor", minor),
                ("system", system),
            ):
                for category, downloads in counts.items():
                    found[name, month, series, category] += downloads
    tally.double_counts += len(found - truth)
    tally.days_lost += len(truth - found)
    assert +found == +truth


async def audit_served(
    tally: Tally, database_url: str, days: Days, absent: Collection[str] = ()
) -> None:
    """Ask a service of its own for everything."""
    settings = Settings(
        rate_limits="",
        ingest_source=IngestSource.NONE,
        retention_days=RETENTION_DAYS,
        request_log=False,
    )
    app = create_app(settings, database_url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        for path, truth in answers(days, RETENTION_DAYS).items():
            began = monotonic()
            response = await client.get(path)
            check(tally, response, [{path: truth}], path)
            assert response.status_code == 200, response.text
            assert monotonic() - began < ANSWER_SECONDS
        for package in absent:
            response = await client.get(f"/api/packages/{package}/recent")
            tally.answers += 1
            tally.wrong_answers += response.status_code != 404
            assert response.status_code == 404


def check(
    tally: Tally,
    response: httpx.Response,
    states: Collection[Mapping[str, object]],
    path: str,
) -> None:
    """An answer has to be right for one of these states, or say that there is none now."""
    tally.answers += 1
    if response.status_code == 200:
        content = response.json()
        is_right = any(state.get(path) == content for state in states)
    else:
        is_right = response.status_code == 503 and int(response.headers["retry-after"]) > 0
    tally.wrong_answers += not is_right
    assert is_right, (path, response.status_code, response.text)


async def audit(
    tally: Tally,
    engine: AsyncEngine,
    database_url: str,
    days: Days,
    absent: Collection[str] = (),
) -> None:
    await audit_stored(tally, engine, days)
    await audit_served(tally, database_url, days, absent)

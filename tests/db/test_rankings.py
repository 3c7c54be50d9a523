"""Rankings, search and summaries are what the daily rows say, and indexes find them."""

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import package_figures
from app.db.engine import connect
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.rankings_repository import RankingsRepository, StoredSummary
from app.db.tables import daily_downloads, ingested_days, packages
from app.domain import rankings
from app.domain.downloads import RecentDownloads
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import (
    PERIOD_DAYS,
    START,
    TREND_DAYS,
    TREND_FLOOR_DOWNLOADS,
    Match,
    SearchPosition,
)
from app.ingest.retention import expire
from tests.clock import NOW
from tests.days import POLICY, RETENTION_DAYS, days_ago, downloads, publish


def repository(engine: AsyncEngine) -> RankingsRepository:
    return RankingsRepository(engine, RETENTION_DAYS)


async def _summary(
    engine: AsyncEngine, package: str, retention_days: int = RETENTION_DAYS
) -> StoredSummary | None:
    publication = await DownloadsRepository(engine, retention_days).publication()
    assert publication
    rankings = RankingsRepository(engine, retention_days)
    return await rankings.summary(package, publication.history)


async def _series(engine: AsyncEngine) -> dict[str, dict[int, int]]:
    """Downloads by package and by the days that have passed since the latest published day."""
    latest = select(func.max(ingested_days.c.day)).scalar_subquery()
    async with connect(engine) as connection:
        rows = await connection.execute(
            select(
                packages.c.name,
                latest - daily_downloads.c.date,
                daily_downloads.c.without_mirrors,
            ).join(packages, packages.c.id == daily_downloads.c.package_id)
        )
        series: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for name, ago, count in rows:
            series[name][ago] = count
        return series


def _sum(series: dict[int, int], first: int, days: int) -> int:
    return sum(count for ago, count in series.items() if first <= ago < first + days)


async def _check(engine: AsyncEngine, days: set[int]) -> None:
    """Compare all that is ranked with the daily rows, `days` being those that are published."""
    read = repository(engine)
    series = await _series(engine)
    every = series.pop(ALL_PACKAGES)
    for period in PERIOD_DAYS:
        sums = {name: _sum(one, 0, PERIOD_DAYS[period]) for name, one in series.items()}
        ranked = sorted((name for name in sums if sums[name]), key=lambda name: (-sums[name], name))
        all_downloads = _sum(every, 0, PERIOD_DAYS[period])
        assert await read.top(period, 1000) == [
            (rank, name, sums[name], all_downloads) for rank, name in enumerate(ranked, 1)
        ]
    ranks = {name: rank for rank, name in enumerate(ranked, 1)}
    growth = {}
    for name, one in series.items():
        last, before = _sum(one, 0, 7), _sum(one, 7, 7)
        if days.issuperset(range(TREND_DAYS)) and last > before >= TREND_FLOOR_DOWNLOADS:
            growth[name] = Fraction(last, before)
    growing = sorted(growth, key=lambda name: (-growth[name], name))
    assert await read.trending(1000) == [
        (rank, name, _sum(series[name], 0, 7), _sum(series[name], 7, 7))
        for rank, name in enumerate(growing, 1)
    ]
    for name, one in (series | {ALL_PACKAGES: every}).items():
        counted = {ago: count for ago, count in one.items() if count}
        peak = max(counted, key=lambda ago: (counted[ago], ago), default=None)
        assert await _summary(engine, name) == StoredSummary(
            recent=RecentDownloads(*(_sum(one, 0, count) for count in PERIOD_DAYS.values())),
            previous_week=_sum(one, 7, 7) if days.issuperset(range(14)) else None,
            previous_month=_sum(one, 30, 30) if days.issuperset(range(60)) else None,
            month_rank=ranks.get(name),
            downloads=sum(one.values()),
            first_date=days_ago(max(counted)) if counted else None,
            latest_date=days_ago(min(counted)) if counted else None,
            peak_date=None if peak is None else days_ago(peak),
            peak_downloads=0 if peak is None else counted[peak],
            total=sum(one.values()),
        )


NAMES = ["a", "a-b", "b", "b2", "c", "flask", "numpy", "zope-interface"]


@pytest.mark.parametrize("seed", range(4))
async def test_figures_and_rankings_match_the_daily_rows(engine: AsyncEngine, seed: int) -> None:
    """After days in any order, some of them replaced, with packages that tie, grow and go."""
    random = Random(seed)
    # The oldest goes first: later it would be outside the window.
    agos = [70, *random.sample(range(16), 16), 29, 30, 59, *random.choices(range(60), k=3)]
    published: set[int] = set()
    for ago in agos:
        rows = [
            downloads(name, random.choice([0, 1, 1500, 1600, 10**6 // (ago + 1)]), mirrors=1)
            for name in random.sample(NAMES, 6)
        ]
        await publish(engine, days_ago(ago), *rows)
        published.add(ago)
        if 0 in published:
            await _check(engine, published)


async def test_two_whole_months(engine: AsyncEngine) -> None:
    for ago in range(60, -1, -1):
        await publish(engine, days_ago(ago), downloads("flask", 61 - ago), downloads("numpy", 2))
    await _check(engine, set(range(61)))
    summary = await _summary(engine, "numpy")
    assert summary
    assert summary.previous_month == 60
    # Where two months are not served there is nothing to compare with.
    short = await _summary(engine, "numpy", 59)
    first = days_ago(58)
    shorter = replace(summary, downloads=2 * 59, first_date=first, peak_date=first)
    assert short == replace(shorter, previous_month=None)


async def test_packages_deleted_by_retention_are_in_no_ranking(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(RETENTION_DAYS + 31), downloads("gone", 9), downloads("kept", 1))
    await publish(engine, days_ago(0), downloads("kept", 2), downloads("new", 1))
    read = repository(engine)

    async def check() -> None:
        for period in PERIOD_DAYS:
            top = await read.top(period, 10)
            assert [(one.rank, one.package) for one in top] == [(1, "kept"), (2, "new")]
        assert await _summary(engine, "gone") is None
        for text_ in ("gone", "g"):
            assert await read.search(text_, 10, START, by_trigrams=True) == []

    await check()
    await expire(engine, replace(POLICY, keep_months=0), NOW)
    await check()
    await _check(engine, {0})


async def test_a_ranking_has_no_more_than_it_may(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"p{number:04}" for number in range(rankings.RANKED_PACKAGES + 1)]
    await publish(engine, days_ago(0), *(downloads(name, 5) for name in reversed(names)))
    top = await repository(engine).top("month", 2000)
    assert [one.package for one in top] == names[:-1], "equal downloads are ranked by name"
    assert [one.rank for one in top] == [*range(1, 1001)]
    assert len(await repository(engine).top("month", 7)) == 7


# Search


def _ranked(*names: str) -> list[Any]:
    """The first has most downloads."""
    return [downloads(name, 10**6 - place) for place, name in enumerate(names)]


async def _found(engine: AsyncEngine, name: str, limit: int = 100) -> list[str]:
    return [one.position.package for one in await _search(engine, name, limit)]


async def _search(
    engine: AsyncEngine, name: str, limit: int, after: SearchPosition = START
) -> list[Match]:
    """Search as a service does, which uses the trigram index if it exists."""
    publication = await DownloadsRepository(engine, RETENTION_DAYS).publication()
    by_trigrams = publication is not None and publication.has_trigrams
    return await repository(engine).search(name, limit, after, by_trigrams=by_trigrams)


@pytest.fixture(params=["trigrams", "substrings"])
async def either(request: pytest.FixtureRequest, engine: AsyncEngine) -> AsyncEngine:
    """A server that has pg_trgm, and one that has not."""
    if request.param == "substrings":
        async with engine.begin() as connection:
            await connection.execute(text("DROP EXTENSION pg_trgm CASCADE"))
    return engine


@pytest.fixture(params=[1, 3, 20_000])
def popular(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many packages search looks in first: what is found does not depend on that."""
    count: int = request.param
    monkeypatch.setattr(package_figures, "POPULAR_PACKAGES", count)
    return count


async def test_the_exact_name_precedes_names_that_begin_with_it(
    either: AsyncEngine, popular: int
) -> None:
    names = ("requests-oauthlib", "requests", "numpy", "requests2", "request", "requests-toolbelt")
    await publish(
        either, days_ago(0), *_ranked(*names), downloads("requests-mirrored", 0, mirrors=1)
    )
    found = ["requests-oauthlib", "requests2", "requests-toolbelt", "requests-mirrored"]
    assert (await _found(either, "requests"))[:5] == ["requests", *found]
    found.remove("requests2")
    assert (await _found(either, "requests-"))[:3] == found
    assert await _found(either, "n") == ["numpy"]
    assert await _found(either, "zzz") == []
    matches = await _search(either, "requests", 5)
    assert [(one.rank, one.last_month) for one in matches] == [
        *((place + 1, 10**6 - place) for place in (1, 0, 3, 5)),
        (None, 0),
    ]


async def test_misspelt_names_are_found(engine: AsyncEngine) -> None:
    await publish(
        engine, days_ago(0), *_ranked("pandas", "requests", "scikit-learn", "requests-oauthlib")
    )
    assert (await _found(engine, "reqeusts"))[0] == "requests"
    assert (await _found(engine, "scikit-lern"))[0] == "scikit-learn"
    assert (await _found(engine, "pandsa"))[0] == "pandas"


async def test_without_trigrams_names_that_contain_the_text_are_found(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP EXTENSION pg_trgm CASCADE"))
    await publish(engine, days_ago(0), *_ranked("types-requests", "requests", "requests-mock"))
    assert await _found(engine, "requests") == ["requests", "requests-mock", "types-requests"]
    assert await _found(engine, "reqeusts") == []


async def test_all_packages_together_are_never_found(either: AsyncEngine) -> None:
    await publish(either, days_ago(0), *_ranked("all", "all-in", "flask"))
    for name in ("all", "a", "-", "9", "z", ALL_PACKAGES):
        assert ALL_PACKAGES not in await _found(either, name)


async def test_pages_together_contain_all_results(either: AsyncEngine, popular: int) -> None:
    names = ["flask", "flask-sqlalchemy", "flask2", "flasq", "pyflask", "flaskr", "flas", "fl"]
    await publish(either, days_ago(40), downloads("flask-old", 1), downloads("flask-older", 1))
    await publish(either, days_ago(0), *_ranked(*Random(popular).sample(names, len(names))))
    whole = await _search(either, "flask", 100)
    assert len(whole) >= 6
    assert [one.position for one in whole] == sorted(one.position for one in whole)
    for limit in (1, 2, 3, 50):
        pages = []
        after = START
        while page := await _search(either, "flask", limit, after):
            pages += page
            after = page[-1].position
        assert pages == whole, limit


async def test_an_extension_that_is_installed_later(engine: AsyncEngine) -> None:
    """Search uses the index from then on, and responses get other tags."""
    read = DownloadsRepository(engine, RETENTION_DAYS)
    await publish(engine, days_ago(0), *_ranked("requests"))
    before = await read.publication()
    index = "SELECT pg_get_indexdef(CAST('ix_packages_popular_trigrams' AS regclass))"
    async with engine.begin() as connection:
        definition = await connection.scalar(text(index))
        await connection.execute(text("DROP EXTENSION pg_trgm CASCADE"))
    assert await _found(engine, "reqeusts") == []
    without = await read.publication()
    assert before
    assert without
    assert before.version != without.version
    async with engine.begin() as connection:
        await connection.execute(text("CREATE EXTENSION pg_trgm"))
        await connection.execute(text(definition or ""))
    assert await _found(engine, "reqeusts") == ["requests"]

"""The outage of November 2021, replayed through the ingest job.

The log pipeline lost nearly everything for two weeks, and the source was completed later.
"""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import pytest

from app.db.repositories.downloads_repository import DownloadsRepository
from app.domain.clock import Clock
from app.domain.downloads import PackageDownloads, Partition
from app.domain.months import Period, first_day
from app.ingest import scheduler
from app.ingest.scheduler import run_ingest_job
from app.ingest.sources.source import DayRows, Source
from app.settings import IngestSource, Settings
from tests.clock import ManualClock
from tests.conftest import TEMPLATE
from tests.days import downloads
from tests.faults.databases import copied, database_of

RETENTION_DAYS = 116

WEEKDAYS = (2800, 2950, 3000, 2950, 2750, 1850, 1850)
"""Downloads of a complete day, by weekday."""

FIRST, LAST = date(2021, 11, 26), date(2021, 12, 10)
LOSSY = [FIRST + timedelta(days=passed) for passed in range((LAST - FIRST).days + 1)]

BEGIN = datetime(2021, 11, 21, 1, 30, tzinfo=UTC)

SETTINGS = Settings(
    ingest_source=IngestSource.FILE,
    ingest_files="/unused",
    retention_days=RETENTION_DAYS,
    rate_limits="",
)


def complete(day: date) -> int:
    return WEEKDAYS[day.weekday()]


def lossy(day: date) -> int:
    share = {FIRST: 0.37, FIRST + timedelta(days=1): 0.002}.get(day, 0.001)
    return round(complete(day) * share) if day in LOSSY else complete(day)


@dataclass
class Source2021(Source):
    """A source that has lost most of two weeks until it is completed."""

    clock: Clock
    completed_at: datetime
    name: str = "given"
    billed: Counter[Period] = field(default_factory=Counter)
    checks: int = 0

    def _downloads(self, period: Period) -> int:
        day = first_day(period)
        return complete(day) if self.clock() >= self.completed_at else lossy(day)

    async def partition(self, day: date) -> Partition:
        self.checks += 1
        modified_at = datetime.combine(day, time(), UTC) + timedelta(days=1, minutes=30)
        if day in LOSSY and self.clock() >= self.completed_at:
            modified_at = self.completed_at
        return Partition(self._downloads(day), modified_at)

    async def begin(self, day: Period) -> str:
        self.billed[day] += 1
        return f"query {self.billed.total()}"

    async def read(self, day: Period, _: str | None) -> DayRows:
        return DayRows(self._batches(day))

    async def _batches(self, day: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        left = self._downloads(day)
        popular = min(left, max(left - 3, 1))
        rows = [downloads("flask", popular)]
        rows += [downloads(f"p{number}", 1) for number in range(left - popular)]
        yield rows


def give(monkeypatch: pytest.MonkeyPatch, source: Source2021) -> None:
    monkeypatch.setattr(scheduler, "open_source", lambda *_: source)


@pytest.fixture(scope="module")
async def before(server_url: str, _template: None) -> AsyncIterator[str]:
    """A database in which all days before the outage are published, to copy."""
    clock = ManualClock(BEGIN)
    settings = SETTINGS.model_copy(update={"ingest_max_days_per_run": RETENTION_DAYS})
    async with copied(server_url, TEMPLATE) as (url, engine):
        with pytest.MonkeyPatch.context() as patch:
            give(patch, Source2021(clock, BEGIN))
            await run_ingest_job(settings, url, clock)
        assert (
            len(await DownloadsRepository(engine, RETENTION_DAYS).published_days())
            == RETENTION_DAYS
        )
        await engine.dispose()
        yield database_of(url)


def moments(clock: ManualClock, end: datetime) -> Iterator[bool]:
    """Move the clock to each daily run, and to noon, until the end; True for a daily run.

    In January and February, when nothing happens, the machine is on every third day.
    """
    while clock.now < end:
        is_daily = clock.now.hour >= 12
        pause = 3 if clock.now.month < 3 else 1
        day = clock.now.date() + timedelta(days=pause * is_daily)
        clock.now = datetime.combine(day, time(1 if is_daily else 12), UTC)
        yield is_daily


@pytest.mark.usefixtures("_template")
async def test_a_database_that_begins_in_the_outage(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lossy days are suspect from the run on that finds a complete day. Before, nothing tells
    that they are lossy.
    """
    clock = ManualClock(datetime(2021, 12, 9, 1, tzinfo=UTC))
    source = Source2021(clock, datetime(2021, 12, 13, 6, tzinfo=UTC))
    give(monkeypatch, source)
    settings = SETTINGS.model_copy(update={"retention_days": 30})
    due: datetime | None = None
    unlisted = Counter[datetime]()
    async with copied(server_url, TEMPLATE) as (url, engine):
        read = DownloadsRepository(engine, 30)
        for is_daily in moments(clock, source.completed_at + timedelta(days=8)):
            if not is_daily and not (due and due <= clock()):
                continue
            due = await run_ingest_job(settings, url, clock, is_daily)
            published, held = await read.published_days(), await read.held_days()
            is_level_known = any(day.downloads == complete(day.day) for day in (*published, *held))
            for day in published:
                if day.downloads < complete(day.day) and not day.suspect_reason:
                    unlisted[clock()] += 1
                    assert not is_level_known, f"{day.day} at {clock()}"
        assert [day.downloads for day in published] == [complete(day.day) for day in published]
        assert len(published) == 30
        assert [day.day for day in published if day.suspect_reason] == []
        assert held == []
    assert list(unlisted.values()) == [7, 14]


@pytest.mark.parametrize(("days_later", "step_days"), [(2, 3), (90, 3), (10, 1)], ids=str)
async def test_no_lossy_day_is_served_as_normal(
    server_url: str,
    before: str,
    monkeypatch: pytest.MonkeyPatch,
    days_later: int,
    step_days: int,
) -> None:
    clock = ManualClock(BEGIN)
    completed_at = datetime.combine(LAST + timedelta(days=days_later), time(6), UTC)
    source = Source2021(clock, completed_at)
    give(monkeypatch, source)
    settings = SETTINGS.model_copy(update={"ingest_step_days": step_days})
    due: datetime | None = None
    served_lossy = set()
    async with copied(server_url, before) as (url, engine):
        read = DownloadsRepository(engine, RETENTION_DAYS)
        for is_daily in moments(clock, completed_at + timedelta(days=9)):
            if not is_daily and not (due and due <= clock()):
                continue
            due = await run_ingest_job(settings, url, clock, is_daily)
            for day in await read.published_days():
                if day.downloads < complete(day.day):
                    served_lossy.add(day.day)
                    assert day.suspect_reason, f"{day.day} at {clock()}"
        # In the end all days are complete, and nothing is held or suspect.
        days = await read.published_days()
        assert [day.downloads for day in days] == [complete(day.day) for day in days]
        assert len(days) == RETENTION_DAYS
        assert [day.day for day in days if day.suspect_reason] == []
        assert await read.held_days() == []
    # Only with the smallest setting, a single day at 37 % is a new level.
    assert served_lossy == ({FIRST} if step_days == 1 else set())
    # A lossy day is billed as it is first read, and once more after it was completed.
    assert {day for day, count in source.billed.items() if count > 1} == set(LOSSY)
    assert set(source.billed.values()) == {1, 2}
    # Checks are nearly free, and become rarer: at most 30 of each such day in three months.
    assert source.checks <= 2 * len(source.billed) + 30 * len(LOSSY)

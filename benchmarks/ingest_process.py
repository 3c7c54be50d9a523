"""Ingests one day like the service, and prints the time of each stage."""

import asyncio
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import job_engine
from app.domain.clock import utc_now
from app.domain.downloads import Batch, Partition, PublishedDay
from app.domain.events import CountedFiles
from app.domain.months import Period
from app.ingest.pipeline import read_and_publish
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext
from app.ingest.sources.source import DayRows, Source, open_source
from app.interpreter import collect_garbage_less_often
from app.settings import IngestSource, load_settings

STAGES = {
    "ANALYZE staged_downloads": "statistics of the staged rows",
    "SELECT count(*) AS packages": "digest of the day",
    "INSERT INTO staged_downloads": "sums over all packages",
    "INSERT INTO packages": "new packages",
    "INSERT INTO daily_downloads": "insert of the rows into their month",
    "UPDATE packages SET last_seen": "update of packages' figures and ranks",
    "INSERT INTO top_packages": "rankings: most downloaded",
    "INSERT INTO trending_packages": "rankings: trending",
}
"""Names of the stages, by the beginnings of their statements. Other statements are short."""


class TimedSource(Source):
    """Measures the time that a source needs, and the time between its batches."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = source.name
        self.first_row = 0.0
        self.waited_seconds = 0.0
        self.taken_seconds = 0.0

    def groups(self, days: Iterable[date]) -> Iterable[Sequence[date]]:
        return self._source.groups(days)

    async def origin(self, day: Period) -> str:
        return await self._source.origin(day)

    def counted_files(self, day: date) -> CountedFiles:
        return self._source.counted_files(day)

    async def partition(self, day: date) -> Partition | None:
        return await self._source.partition(day)

    async def begin(self, day: Period) -> str | None:
        return await self._source.begin(day)

    async def read(self, day: Period, query: str | None) -> DayRows:
        reading = await self._source.read(day, query)
        return replace(reading, batches=self._timed(reading.batches))

    async def _timed(self, batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[Batch, None]:
        asked = time.perf_counter()
        async for page in batches:
            handed = time.perf_counter()
            if self.first_row:
                self.waited_seconds += handed - asked
            else:
                self.first_row = handed
            yield page
            asked = time.perf_counter()
            self.taken_seconds += asked - handed


def time_statements(engine: AsyncEngine) -> Mapping[str, float]:
    """Return the seconds spent in each stage, which are counted from now on."""
    seconds: defaultdict[str, float] = defaultdict(float)
    began = 0.0

    def before(*_: Any) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        words = " ".join(statement.split())
        stage = next((name for begin, name in STAGES.items() if words.startswith(begin)), "others")
        seconds[stage] += time.perf_counter() - began

    event.listen(engine.sync_engine, "before_cursor_execute", before)
    event.listen(engine.sync_engine, "after_cursor_execute", after)
    return seconds


async def ingest(day: date) -> dict[str, object]:
    settings = load_settings()
    assert settings.database_url is not None
    source = TimedSource(open_source(settings, IngestSource.BIGQUERY))
    collect_garbage_less_often()
    async with job_engine(settings.database_url.get_secret_value()) as engine:
        statements = time_statements(engine)
        published = await read_and_publish(
            PublishContext(engine, policy_of(settings), utc_now), source, day
        )
        assert isinstance(published, PublishedDay)
        total = time.perf_counter() - source.first_row
    stages = {
        "fetching and parsing pages": source.waited_seconds,
        "validating rows and copying them to Postgres": source.taken_seconds,
        **statements,
    }
    return {
        "packages": published.packages,
        "seconds": total,
        "stages": stages | {"commit and everything else": total - sum(stages.values())},
        "cpu_seconds": time.process_time(),
        "peak_rss_bytes": _peak_rss_bytes(),
    }


def _peak_rss_bytes() -> int:
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kibibytes) * 1024


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ingest(date.fromisoformat(sys.argv[1])))))

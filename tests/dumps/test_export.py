"""Days on their way from the database to a folder."""

import hashlib
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import dataset
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.dump_repository import DumpRepository
from app.domain.downloads import PackageDownloads, PublishedDay
from app.dumps import formats
from app.dumps.export import export, published_days, remove_outdated
from app.dumps.listing import INDEX_NAME, Dump, DumpFile, DumpFormat, parse
from app.dumps.stores.folder import DumpFolder
from app.dumps.stores.store import UNFINISHED_PREFIX
from app.errors import DumpsError
from app.ingest.sources.sample import SampleSource
from tests.days import RETENTION_DAYS, days_ago, downloads, ingest, publish

pytestmark = pytest.mark.usefixtures("in_this_process")

ROWS = [
    downloads("a-first", {"3.12": 2, "3.9": 1}, mirrors=4),
    downloads("b", 0, mirrors=1),
    downloads("zope-interface", 7),
]


@pytest.fixture
def folder(tmp_path: Path) -> DumpFolder:
    return DumpFolder(tmp_path / "deep" / "dumps")


async def _export(
    engine: AsyncEngine,
    folder: DumpFolder,
    dump_format: DumpFormat = DumpFormat.PARQUET,
    retention_days: int = RETENTION_DAYS,
    *,
    replace_sample: bool = False,
) -> list[Dump]:
    """Export as the command does, and return the written dumps."""
    days = await published_days(engine)
    with folder.opened():
        remove_outdated(folder, days, retention_days=retention_days, replace_sample=replace_sample)
        exported = export(engine, folder, days, dump_format)
        done = [one.dump async for one in exported if one.is_new]
        return [dump for dump in done if isinstance(dump, Dump)]


def _content(folder: DumpFolder, dump: DumpFile) -> list[PackageDownloads]:
    with (folder.path / dump.name).open("rb") as file:
        return [row for rows in formats.read(file, dump.format, dump.period) for row in rows]


def _state(folder: DumpFolder) -> dict[str, tuple[int, int]]:
    """Each file with what tells it from another one of the same name."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.path.iterdir()
    }


def _assert_whole(folder: DumpFolder) -> None:
    """Assert that exactly the listed files exist, with the listed content."""
    dumps = folder.dumps().files
    for dump in dumps:
        content = (folder.path / dump.name).read_bytes()
        assert (dump.bytes, dump.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        rows = _content(folder, dump)
        assert len(rows) == dump.packages
        assert sum(row.without_mirrors for row in rows) == dump.downloads
        assert sum(row.with_mirrors for row in rows) == dump.downloads_with_mirrors
    assert {path.name for path in folder.path.iterdir()} == {
        *(dump.name for dump in dumps),
        INDEX_NAME,
    }


@pytest.mark.parametrize("dump_format", DumpFormat)
async def test_each_day_is_a_file(
    engine: AsyncEngine, folder: DumpFolder, dump_format: DumpFormat
) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5))
    published = await publish(engine, days_ago(0), *reversed(ROWS))
    latest, before = await _export(engine, folder, dump_format)
    assert latest.model_dump(exclude={"bytes", "sha256"}) == {
        "day": days_ago(0),
        "name": f"downloads-{days_ago(0)}-{published.digest[:12]}{dump_format.suffix}",
        "url": latest.name,
        "format": dump_format,
        "source": "given",
        "packages": 3,
        "downloads": 10,
        "downloads_with_mirrors": 15,
        "digest": published.digest,
        "columns": ("day", "package", "with_mirrors", "without_mirrors", "python_minor", "system"),
        "followed": None,
        "counted_files": "all",
    }
    assert _content(folder, latest) == ROWS
    assert _content(folder, before) == [downloads("flask", 5)]
    assert parse((folder.path / INDEX_NAME).read_bytes()).data == (latest, before)
    _assert_whole(folder)


async def test_a_day_has_the_breakdowns_that_were_ingested(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    row = downloads("flask", 5, country={"US": 3, "null": 2}, ci={"null": 5})
    await publish(engine, days_ago(1), row)
    await publish(engine, days_ago(0), *ROWS)
    latest, before = await _export(engine, folder)
    assert latest.columns[4:] == ("python_minor", "system")
    assert before.columns[4:] == ("python_minor", "system", "ci", "country")
    assert _content(folder, before) == [row]
    # What is ingested of a day later is exported later.
    await publish(engine, days_ago(0), downloads("flask", 5, installer={"pip": 5}))
    (again,) = await _export(engine, folder)
    assert again.columns[4:] == ("python_minor", "system", "installer")


async def test_a_second_export_changes_nothing(engine: AsyncEngine, folder: DumpFolder) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), *ROWS)
    assert len(await _export(engine, folder)) == 2
    state = _state(folder)
    assert await _export(engine, folder) == []
    assert _state(folder) == state


async def test_the_same_rows_are_not_written_again(engine: AsyncEngine, folder: DumpFolder) -> None:
    await publish(engine, days_ago(0), *ROWS)
    await _export(engine, folder)
    state = _state(folder)
    await publish(engine, days_ago(0), *reversed(ROWS))
    assert await _export(engine, folder) == []
    assert _state(folder) == state


async def test_a_changed_day_replaces_its_file(engine: AsyncEngine, folder: DumpFolder) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), *ROWS)
    before = await _export(engine, folder)
    await publish(engine, days_ago(1), downloads("flask", 6))
    (changed,) = await _export(engine, folder)
    assert changed.day == days_ago(1)
    assert changed.name not in {dump.name for dump in before}
    assert len(folder.dumps().data) == 2
    _assert_whole(folder)


async def test_pandas_and_arrow_read_the_folder_as_it_is(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    """A killed export may have left a file behind."""
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), *ROWS)
    await _export(engine, folder)
    (folder.path / f"{UNFINISHED_PREFIX}x.parquet").touch()
    frame = pd.read_parquet(folder.path)
    assert list(frame["day"]) == [days_ago(1), *[days_ago(0)] * 3]
    table = dataset.dataset(folder.path).to_table()
    assert table["package"].to_pylist() == ["flask", *(row.package for row in ROWS)]


async def _drop(engine: AsyncEngine, day: date) -> None:
    """Drop a day from the database, as retention does."""
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM ingested_days WHERE day = :day"), {"day": day})


async def test_an_export_with_a_shorter_window_removes_no_published_day(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    for ago in (40, 0):
        await publish(engine, days_ago(ago), downloads("flask", 5))
    await _export(engine, folder)
    state = _state(folder)
    assert await _export(engine, folder, retention_days=30) == []
    assert _state(folder) == state


async def test_only_days_that_are_no_longer_served_are_removed(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    for ago in (40, 29, 0):
        await publish(engine, days_ago(ago), downloads("flask", 5))
    await _export(engine, folder)
    await _drop(engine, days_ago(40))
    strangers = ["README.md", "downloads-2026-11-20.parquet", "index.json.bak"]
    for name in strangers:
        (folder.path / name).touch()
    # An export writes only files.
    subfolder = folder.path / "downloads-2016-01-01-0123456789ab.parquet"
    subfolder.mkdir()
    assert await _export(engine, folder, retention_days=30) == []
    assert [dump.day for dump in folder.dumps().data] == [days_ago(0), days_ago(29)]
    for name in strangers:
        (folder.path / name).unlink()
    subfolder.rmdir()
    _assert_whole(folder)


async def test_an_export_from_a_new_database_removes_no_other_days(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    """Files of days inside the window stay, whether they are listed or not."""
    for ago in range(30):
        await publish(engine, days_ago(ago), downloads("flask", 5))
    before = await _export(engine, folder)
    async with engine.begin() as connection:
        for table in ("daily_downloads", "ingested_days"):
            await connection.execute(text(f"TRUNCATE {table}"))
    await publish(engine, days_ago(0), downloads("flask", 6))
    (new,) = await _export(engine, folder)
    assert folder.dumps().data == (new, *before[1:])
    _assert_whole(folder)
    # And where the list was lost.
    (folder.path / INDEX_NAME).unlink()
    assert await _export(engine, folder) == [new]
    assert {path.name for path in folder.path.iterdir()} == {
        *(dump.name for dump in (new, *before[1:])),
        INDEX_NAME,
    }


async def test_real_data_replaces_the_sample_only_on_request(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    """The names of files show their kind, even if the list is missing."""
    await ingest(engine, SampleSource(), days_ago(3))
    (sample,) = await _export(engine, folder)
    await publish(engine, days_ago(0), downloads("flask", 5), replace_sample=True)
    for is_listed in (True, False):
        if not is_listed:
            (folder.path / INDEX_NAME).unlink()
        state = _state(folder)
        with pytest.raises(DumpsError, match=r"holds dumps of sample data.*--replace-sample"):
            await _export(engine, folder)
        assert _state(folder) == state
    (real,) = await _export(engine, folder, replace_sample=True)
    assert folder.dumps().data == (real,)
    assert not (folder.path / sample.name).exists()
    _assert_whole(folder)


async def test_a_sample_never_replaces_real_data(engine: AsyncEngine, folder: DumpFolder) -> None:
    await ingest(engine, SampleSource(), days_ago(0))
    folder.path.mkdir(parents=True)
    real = folder.path / f"downloads-{days_ago(400)}-0123456789ab.parquet"
    real.touch()
    for replace_sample in (False, True):
        with pytest.raises(DumpsError, match="holds dumps of real data"):
            await _export(engine, folder, replace_sample=replace_sample)
        assert [path.name for path in folder.path.iterdir()] == [real.name]


async def test_a_sample_that_is_replaced_meanwhile_is_not_mixed_with_real_data(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    await ingest(engine, SampleSource(), days_ago(0))
    days = await published_days(engine)
    with folder.opened():
        remove_outdated(folder, days, retention_days=RETENTION_DAYS)
        await publish(engine, days_ago(0), downloads("flask", 5), replace_sample=True)
        exported = export(engine, folder, days, DumpFormat.CSV)
        assert [one async for one in exported] == []


async def test_removed_files_are_named(engine: AsyncEngine, folder: DumpFolder) -> None:
    for ago in (40, 1, 0):
        await publish(engine, days_ago(ago), downloads("flask", 5))
    _, before, old = await _export(engine, folder)
    unfinished = f"{UNFINISHED_PREFIX}{old.name}"
    (folder.path / unfinished).touch()
    await publish(engine, days_ago(1), downloads("flask", 6))
    await _drop(engine, days_ago(40))
    days = await published_days(engine)
    with folder.opened():
        assert remove_outdated(folder, days, retention_days=30) == [unfinished, old.name]
        exported = export(engine, folder, days, DumpFormat.PARQUET)
        assert [one.removed async for one in exported] == [(), [before.name]]
    _assert_whole(folder)


async def test_an_export_of_an_empty_database_removes_nothing(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    with pytest.raises(DumpsError, match="nothing is published"):
        await _export(engine, folder)
    assert not folder.path.exists()


async def test_files_of_sample_data_are_named_sample(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    await ingest(engine, SampleSource(), days_ago(0))
    (dump,) = await _export(engine, folder)
    assert dump.is_sample
    assert dump.name.startswith(f"sample-{days_ago(0)}-")
    assert len(_content(folder, dump)) == 200


async def test_a_publish_during_an_export_is_harmless(
    engine: AsyncEngine, folder: DumpFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the rows that its digest is of, and the next export those after."""
    day = days_ago(0)
    rows = [downloads(f"p{number:05}", 1) for number in range(5000)]
    published = await publish(engine, day, *rows)
    days = await published_days(engine)
    with folder.opened():
        read = DumpRepository.rows

        async def publish_between(self: DumpRepository, *arguments: Any) -> Any:
            first = True
            async for batch in read(self, *arguments):
                yield batch
                if first:
                    first = False
                    await publish(engine, day, downloads("p00000", 2), downloads("new", 3))

        monkeypatch.setattr(DumpRepository, "rows", publish_between)
        (one,) = [one async for one in export(engine, folder, days, DumpFormat.NDJSON)]
    assert one.dump.digest == published.digest
    assert _content(folder, one.dump) == rows
    _assert_whole(folder)
    monkeypatch.undo()
    (after,) = await _export(engine, folder, DumpFormat.NDJSON)
    assert after.packages == 2
    _assert_whole(folder)


class _KilledError(BaseException):
    """Ends what runs as it is: nothing that is written after it, as after a SIGKILL."""


STEPS: list[tuple[Any, str]] = [
    (os, "fsync"),
    (Path, "replace"),
    (Path, "iterdir"),
    (Path, "unlink"),
    (hashlib, "file_digest"),
    (Dump, "model_dump"),
]


async def test_a_second_export_completes_a_killed_one(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    """Of every call that changes the folder: before it, and after it. What was listed stays whole
    until what takes its place is.
    """
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), *ROWS)
    await _export(engine, folder)
    kills = 0
    for owner, name in STEPS:
        for after in (False, True):
            number = 0
            while True:
                number += 1
                flask = 1000 + kills
                old = await publish(engine, days_ago(1), downloads("flask", flask))
                is_killed = await _killed_at(engine, folder, owner, name, number, after=after)
                # Whoever reads now finds all that is listed, as it is listed.
                for dump in folder.dumps().data:
                    content = (folder.path / dump.name).read_bytes()
                    assert hashlib.sha256(content).hexdigest() == dump.sha256
                await _export(engine, folder)
                _assert_whole(folder)
                new = folder.dumps().of(days_ago(1))
                assert new
                assert new.digest == old.digest
                kills += 1
                if not is_killed:
                    break
    assert kills > 2 * len(STEPS)


async def _killed_at(
    engine: AsyncEngine, folder: DumpFolder, owner: Any, name: str, number: int, *, after: bool
) -> bool:
    """Return True if the export has reached this step."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0
    is_dead = False

    def killed(*arguments: Any, **named: Any) -> Any:
        nonlocal calls, is_dead
        if is_dead:
            raise _KilledError
        calls += 1
        if calls < number:
            return original(*arguments, **named)
        is_dead = True
        if after:
            original(*arguments, **named)
        raise _KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killed)
        if (owner, name) != (Path, "unlink"):
            # What is killed does not tidy up.
            unlink = Path.unlink

            def unlink_alive(self: Path, **named: bool) -> None:
                if is_dead:
                    raise _KilledError
                unlink(self, **named)

            patch.setattr(Path, "unlink", unlink_alive)
        try:
            await _export(engine, folder)
        except _KilledError:
            return True
    return False


async def test_a_missing_or_truncated_file_is_written_again(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), *ROWS)
    latest, before = await _export(engine, folder)
    (folder.path / latest.name).unlink()
    os.truncate(folder.path / before.name, 10)
    assert len(await _export(engine, folder)) == 2
    _assert_whole(folder)


async def test_one_export_at_a_time(engine: AsyncEngine, folder: DumpFolder) -> None:
    await publish(engine, days_ago(0), *ROWS)
    with folder.opened(), pytest.raises(DumpsError, match="another export writes to"):
        await _export(engine, folder)
    assert len(await _export(engine, folder)) == 1


async def test_a_foreign_list_is_not_overwritten(engine: AsyncEngine, folder: DumpFolder) -> None:
    await publish(engine, days_ago(0), *ROWS)
    folder.path.mkdir(parents=True)
    for content in (b"{}", b"[]", b"not json", b'{"data":[{"day":"x"}],"type":"dumps"}'):
        (folder.path / INDEX_NAME).write_bytes(content)
        with pytest.raises(DumpsError, match=r"index\.json is not a list of dumps"):
            await _export(engine, folder)
        assert (folder.path / INDEX_NAME).read_bytes() == content


async def test_a_day_that_retention_dropped_meanwhile_is_skipped(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    gone: PublishedDay = await publish(engine, days_ago(40), downloads("flask", 5))
    await publish(engine, days_ago(0), *ROWS)
    await _drop(engine, gone.day)
    with folder.opened():
        exported = export(engine, folder, [gone], DumpFormat.CSV)
        assert [one async for one in exported] == []

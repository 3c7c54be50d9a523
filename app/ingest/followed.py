"""Deletes the data of packages that are no longer followed."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.months_repository import MonthsRepository, staged_line
from app.domain.downloads import PublishedDay
from app.domain.months import StoredMonth
from app.domain.package_name import followed_text
from app.errors import IngestError
from app.ingest.month_rows import pack_again
from app.ingest.publish import PublishContext, record_suspects
from app.ingest.rollup import store_month

log = logging.getLogger(__name__)


async def forget_unfollowed(context: PublishContext, *, is_forced: bool = False) -> None:
    """Delete the rows of packages that are no longer followed, and held days that were read for
    other packages. The plan reads days again that lack a package which is followed now.

    This changes nothing if the database has the figures of all packages. If it is interrupted, the
    next call continues. Raises `IngestError` if more than half of the packages would be deleted,
    unless forced.
    """
    followed = context.policy.followed
    async with connect(context.engine) as connection:
        repository, months = IngestRepository(connection), MonthsRepository(connection)
        published = await repository.published()
        scopes = {one.followed for one in published.values()}
        names = (followed or "").split()
        if scopes and not is_forced and followed is not None:
            _check_kept({name for scope in scopes for name in (scope or "").split()}, names)
        held = [day for day, one in (await repository.held()).items() if one.followed != followed]
        if held:
            await repository.lock_publish(max(held))
            for day in held:
                await repository.delete_held(day)
            await context.check_lock(connection)
        await connection.commit()
        if followed is None or None in scopes:
            return
        for month in await months.with_other_packages(names):
            await _store_rest_of_month(context, connection, month, names)
        # The latest day decides which packages have responses.
        for day in sorted(published, reverse=True):
            if not {*(published[day].followed or "").split()} <= {*names}:
                await _publish_rest_of_day(context, connection, published[day], names)


def _check_kept(stored: Collection[str], names: Collection[str]) -> None:
    kept = len({*stored} & {*names})
    if 2 * kept < len(stored):
        raise IngestError(
            f"INGEST_PACKAGES names only {kept:,} of the {len(stored):,} packages in the database: "
            "correct it, or run `pypi-stats backfill --force` once to delete the figures of the "
            "others"
        )


async def _store_rest_of_month(
    context: PublishContext, connection: AsyncConnection, month: StoredMonth, names: Sequence[str]
) -> None:
    months = MonthsRepository(connection)
    await months.begin_staging()
    rows = await months.rows(month.month, 1, await months.last_id())
    packing, kept = pack_again(month, [row for row in rows if row[0] in names])
    await months.stage(list(map(staged_line, kept)))
    figures = {
        **asdict(await months.figures_of_staged(packing.categories)),
        "breakdowns": month.breakdowns,
        "categories": packing.categories,
        "followed": followed_text({*(month.followed or "").split()} & {*names}),
    }
    await connection.commit()
    await store_month(context, connection, replace(month, **figures), lambda *_: True)
    log.info("%s: deleted packages that are no longer followed", month)


async def _publish_rest_of_day(
    context: PublishContext, connection: AsyncConnection, day: PublishedDay, names: Sequence[str]
) -> None:
    repository = IngestRepository(connection)
    await repository.begin_staging()
    await repository.stage_published(day.day, names)
    kept = followed_text({*(day.followed or "").split()} & {*names})
    figures = await repository.figures_of_staged(
        day.day, day.source, day.counted_files, day.partition, kept
    )
    await connection.commit()
    await repository.lock_publish(day.day)
    published = await repository.publish(
        figures, read_at=day.checked_at, published_at=context.clock()
    )
    await record_suspects(repository, context.policy)
    await repository.announce(day.day)
    await context.check_lock(connection)
    await connection.commit()
    log.info("deleted packages that are no longer followed, and %s", published)

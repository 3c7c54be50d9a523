"""Writes the dumps of new and changed days and months, as the last step of the ingest job."""

import logging
import os

from app.domain.downloads import served_days
from app.dumps.export import export, published_days, remove_outdated, stored_months
from app.dumps.listing import DumpFormat
from app.dumps.stores.folder import DumpFolder
from app.errors import OperatorError, SettingsError
from app.ingest.publish import PublishContext
from app.ingest.rollup import first_kept_month
from app.settings import IngestSource, Settings

log = logging.getLogger(__name__)


def check_destination(settings: Settings) -> None:
    """Raise `SettingsError` if the ingest job will not be able to write dumps."""
    if settings.source is IngestSource.NONE:
        raise SettingsError(
            "DUMPS_DAILY: should be false with INGEST_SOURCE=none, because the ingest job of "
            "another process writes the dumps"
        )
    folder = settings.dumps_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "no permission to write")
    except OSError as error:
        raise SettingsError(
            f"DUMPS_DIR: should be a folder that can be written, because DUMPS_DAILY is set: "
            f"{folder} ({error.strerror})"
        ) from None


async def write_dumps(settings: Settings, context: PublishContext) -> None:
    """Write the missing and outdated dumps of the days served and of the stored months.

    The caller holds the ingest lock, so that processes do not write at the same time. A failure is
    logged, and the next run of the job tries again.
    """
    store, written = DumpFolder(settings.dumps_dir), 0
    try:
        with store.opened():
            published = await published_days(context.engine)
            first_served = served_days(published[0].day, settings.retention_days).first
            formats = {dump.format for dump in store.dumps().data}
            remove_outdated(
                store,
                published,
                retention_days=settings.retention_days,
                first_month=first_kept_month(published[0].day, context.policy),
                # The database has replaced its sample, so the dumps of the sample are outdated.
                replace_sample=True,
            )
            days = [one for one in published if one.day >= first_served]
            months = await stored_months(context.engine)
            dump_format = formats.pop() if formats else DumpFormat.PARQUET
            async for result in export(context.engine, store, [*days, *months], dump_format):
                written += result.is_new
                if context.lock:
                    context.lock.check()
        log.info("dumps: wrote %d files to %s", written, store)
    except OperatorError as error:
        log.warning("dumps: %s; the next run of the ingest job tries again", error)
    except Exception:
        log.exception("dumps: the next run of the ingest job tries again")

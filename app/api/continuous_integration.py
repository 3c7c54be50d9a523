"""Downloads without those by continuous integration, from the breakdown `ci`."""

from collections.abc import Collection, Sequence
from datetime import date, timedelta

from app.api.ingested import check_ingested
from app.api.statistics import Statistics
from app.db.repositories.downloads_repository import WITHOUT_MIRRORS, SeriesRange, SeriesResult
from app.domain.breakdowns import CI
from app.domain.choice import Choice
from app.domain.downloads import Publication, RecentDownloads, Window, date_ranges
from app.domain.rankings import PERIOD_DAYS
from app.domain.series import SeriesSum
from app.errors import NotFoundError

CI_CATEGORY = "true"
"""Category of downloads by continuous integration."""

EXCLUDED_CI_HELP = (
    "`false` excludes downloads by continuous integration, but not those of unknown origin. It "
    "needs the breakdown `ci`, and returns 404 if this instance does not ingest it."
)


class ExcludedCi(Choice):
    FALSE = "false"


async def overall_without_ci(
    names: Sequence[str], range_: SeriesRange, statistics: Statistics, *, with_days: bool
) -> dict[str, SeriesResult]:
    """Read the series `without_mirrors` of the days with the breakdown, by package. Packages
    without a download in the days served are omitted. Raises `NotFoundError`.
    """
    check_ingested(CI, statistics.publication, range_)
    found = {}
    for name, result in await statistics.downloads.breakdown_of_many(
        names, range_, CI, with_days=with_days
    ):
        total = SeriesSum()
        for category, items in result.series.items():
            if category != CI_CATEGORY:
                total.add({WITHOUT_MIRRORS: items})
        found[name] = result._replace(series=total.series)
    return found


async def recent_without_ci(
    names: Sequence[str], period: str | None, statistics: Statistics
) -> dict[str, RecentDownloads]:
    """Return recent downloads by package. Packages without a download in the days served are
    omitted. Raises `NotFoundError` if a published day of the period, by default of the longest one,
    does not have the breakdown.
    """
    publication = statistics.publication
    latest = publication.latest_day
    days = Window(latest - timedelta(days=max(PERIOD_DAYS.values()) - 1), latest)
    range_ = SeriesRange(days, publication.window.first)
    found = await overall_without_ci(names, range_, statistics, with_days=True)
    counts = {}
    for name, result in found.items():
        _check_complete(period, result.published_days, publication)
        items = result.series.get(WITHOUT_MIRRORS, [])
        counts[name] = RecentDownloads(
            *(
                sum(downloads for day, downloads in items if day > latest - timedelta(days=length))
                for length in PERIOD_DAYS.values()
            )
        )
    return counts


def _check_complete(period: str | None, days: Collection[date], publication: Publication) -> None:
    """Raise `NotFoundError` if a published day of the period is not among `days`."""
    length = PERIOD_DAYS[period] if period else max(PERIOD_DAYS.values())
    first = publication.latest_day - timedelta(days=length - 1)
    missing = {day for day in publication.days if day >= first} - set(days)
    if missing:
        raise NotFoundError(
            "Downloads without continuous integration are unknown, because days were ingested "
            f"without the breakdown ci: {date_ranges(missing)}."
        )

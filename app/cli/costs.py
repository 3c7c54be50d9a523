"""The cost of reading BigQuery, per day, per month and for the first backfill."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.events import ARTIFACTS_SINCE, CountedFiles
from app.domain.months import Month
from app.ingest.sources.bigquery import (
    BYTES_BILLED_PER_CHECK,
    USD_PER_TIB_BILLED,
    cost_usd,
    create_source,
)
from app.ingest.sources.followed_days import MAX_DAYS
from app.settings import IngestSource, Settings

DAYS_PER_MONTH = 30

PRICE = f"The price is {USD_PER_TIB_BILLED} USD per TiB. The first TiB of each month is free"

DAILY_PRICE = f"""\
{PRICE}: subtract up to
{USD_PER_TIB_BILLED} USD per month. A day that is read soon after its end is"""

NOTES = f"""\
{DAILY_PRICE} checked once more. If
the service account may read partitions, this bills 10 MB; otherwise the day is read again."""

NOTES_ON_FOLLOWED_PACKAGES = f"""\
{DAILY_PRICE} read once more.

INGEST_PACKAGES is set, so these figures are upper bounds: they include the rows of all packages,
which BigQuery skips when it runs the query. `pypi-stats history` shows the bytes that it billed, at
least 10 MB per query. The first {{days}} days take {{queries}} queries."""


def cost_report(settings: Settings, day: date) -> str:
    """Return the costs of these settings, extrapolated from one day. Dry runs of that day's query,
    which are free, return the bytes to bill. Each column is billed once, so parts of a query add
    up.
    """
    source = create_source(settings)
    billed = source.bytes_billed(day)
    required = source.bytes_billed(day, (), CountedFiles.ALL)
    breakdowns = {
        one.name: source.bytes_billed(day, (one,), CountedFiles.ALL) - required
        for one in OPTIONAL_BREAKDOWNS
    }
    # The query reads file names only for days until the change.
    named_day = min(day, ARTIFACTS_SINCE)
    names = source.bytes_billed(named_day, (), CountedFiles.ARTIFACTS)
    names -= source.bytes_billed(named_day, (), CountedFiles.ALL)

    ingested = {one.name for one in settings.breakdowns_of(IngestSource.BIGQUERY)}
    reads_names = settings.ingest_counted_files is CountedFiles.ARTIFACTS
    days = settings.retention_days
    first = day - timedelta(days=days - 1)
    names_in_all = names * max(0, (named_day - first).days + 1)
    per_day = required + sum(breakdowns[name] for name in ingested)

    def line(name: str, bytes_of_day: int, bytes_of_month: int, bytes_of_all: int) -> str:
        costs = map(cost_usd, (bytes_of_day, bytes_of_month, bytes_of_all))
        return _row(name, f"{bytes_of_day:,}", *(f"{one:,.2f}" for one in costs))

    def daily(name: str, count: int) -> str:
        return line(name, count, count * DAYS_PER_MONTH, count * days)

    def marked(name: str, is_chosen: bool) -> str:
        return f"  {name}, ingested" if is_chosen else f"  {name}"

    in_all = per_day * days + names_in_all * reads_names
    is_bound = settings.ingest_packages is not None
    total = (
        f"{day}: {'at most ' if is_bound else ''}{billed:,} bytes ({billed / 2**30:.1f} GiB) "
        "would be billed, "
        f"{cost_usd(billed):.2f} USD; "
        f"BIGQUERY_MAX_BYTES_BILLED allows {settings.bigquery_max_bytes_billed:,} bytes"
    )
    checks = [
        "Checking each day's partition before reading it again:",
        daily("  costs", BYTES_BILLED_PER_CHECK),
        daily("  saves", per_day - BYTES_BILLED_PER_CHECK),
    ]
    notes = NOTES_ON_FOLLOWED_PACKAGES.format(days=days, queries=-(-days // MAX_DAYS))
    return "\n".join(
        [
            *(total, ""),
            _row("", "bytes", "USD per day", "USD per month", f"first {days} days"),
            line("these settings", per_day, per_day * DAYS_PER_MONTH, in_all),
            daily("without optional breakdowns", required),
            "Each of INGEST_BREAKDOWNS adds:",
            *(daily(marked(name, name in ingested), count) for name, count in breakdowns.items()),
            f"INGEST_COUNTED_FILES=artifacts adds to days until {ARTIFACTS_SINCE}:",
            line(marked("names of files", reads_names), names, 0, names_in_all),
            *(() if is_bound else checks),
            "",
            notes if is_bound else NOTES,
        ]
    )


def month_costs(settings: Settings, months: Sequence[Month]) -> Iterator[str]:
    """Yield the lines of the report on the cost of importing months: one per month, and a total.
    Free dry runs return the bytes to bill.
    """
    source = create_source(settings)

    def line(name: str, billed: int) -> str:
        return f"{name:<10}{billed:>24,}{cost_usd(billed):>14,.2f}"

    yield f"{'month':<10}{'bytes':>24}{'USD':>14}"
    total = 0
    for month in months:
        billed = source.bytes_billed(month)
        total += billed
        yield line(str(month), billed)
    yield line("total", total)
    yield f"{PRICE}."


def _row(name: str, *cells: str) -> str:
    return f"{name:<28}" + "".join(map(str.rjust, cells, (16, 13, 15, 16)))

"""The cost of reading BigQuery, per day, per month and for the first backfill."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.events import ARTIFACTS_SINCE, CountedFiles
from app.ingest.sources.bigquery import (
    BYTES_BILLED_PER_CHECK,
    USD_PER_TIB_BILLED,
    cost_usd,
    create_source,
)
from app.settings import IngestSource, Settings

DAYS_PER_MONTH = 30

NOTES = f"""\
The price is {USD_PER_TIB_BILLED} USD per TiB. The first TiB of each month is free: subtract up to
{USD_PER_TIB_BILLED} USD per month. A day that is read soon after its end is checked once more. If
the service account may read partitions, this bills 10 MB; otherwise the day is read again."""


@dataclass(frozen=True)
class Costs:
    """Bytes that the query of a day bills. Each column is billed once, so the parts add up."""

    required: int
    breakdowns: dict[str, int]
    """Bytes that each optional breakdown adds."""

    file_names: int
    """Bytes that `INGEST_COUNTED_FILES=artifacts` adds to a day until `ARTIFACTS_SINCE`."""


def cost_report(settings: Settings, day: date) -> str:
    """Ask BigQuery what the query of a day would bill, which is free, and extrapolate."""
    source = create_source(settings)
    billed = source.bytes_billed(day)
    required = source.bytes_billed(day, (), CountedFiles.ALL)
    named_day = min(day, ARTIFACTS_SINCE)
    without_names, with_names = (
        source.bytes_billed(named_day, (), counted)
        for counted in (CountedFiles.ALL, CountedFiles.ARTIFACTS)
    )
    costs = Costs(
        required=required,
        breakdowns={
            one.name: source.bytes_billed(day, (one,), CountedFiles.ALL) - required
            for one in OPTIONAL_BREAKDOWNS
        },
        file_names=with_names - without_names,
    )
    total = (
        f"{day}: {billed:,} bytes ({billed / 2**30:.1f} GiB) would be billed, "
        f"{cost_usd(billed):.2f} USD; "
        f"BIGQUERY_MAX_BYTES_BILLED allows {settings.bigquery_max_bytes_billed:,} bytes"
    )
    return "\n".join([total, "", *_table(settings, day, costs), "", NOTES])


def _table(settings: Settings, latest: date, costs: Costs) -> Iterator[str]:
    ingested = {one.name for one in settings.breakdowns_of(IngestSource.BIGQUERY)}
    days = settings.retention_days
    first = latest - timedelta(days=days - 1)
    named_days = max(0, (min(latest, ARTIFACTS_SINCE) - first).days + 1)
    reads_names = settings.ingest_counted_files is CountedFiles.ARTIFACTS
    per_day = costs.required + sum(costs.breakdowns[name] for name in ingested)
    names_in_all = costs.file_names * named_days
    total_of_first_days = per_day * days + names_in_all * reads_names

    def line(name: str, day: int, month: int, backfill: int) -> str:
        return _row(name, f"{day:,}", *(f"{cost_usd(one):,.2f}" for one in (day, month, backfill)))

    def daily(name: str, count: int) -> str:
        return line(name, count, count * DAYS_PER_MONTH, count * days)

    def marked(name: str, is_chosen: bool) -> str:
        return f"  {name}, ingested" if is_chosen else f"  {name}"

    yield _row("", "bytes", "USD per day", "USD per month", f"first {days} days")
    yield line("these settings", per_day, per_day * DAYS_PER_MONTH, total_of_first_days)
    yield daily("without optional breakdowns", costs.required)
    yield "Each of INGEST_BREAKDOWNS adds:"
    for name, count in costs.breakdowns.items():
        yield daily(marked(name, name in ingested), count)
    yield f"INGEST_COUNTED_FILES=artifacts adds to days until {ARTIFACTS_SINCE}:"
    yield line(marked("names of files", reads_names), costs.file_names, 0, names_in_all)
    yield "Checking each day's partition before reading it again:"
    yield daily("  costs", BYTES_BILLED_PER_CHECK)
    yield daily("  saves", per_day - BYTES_BILLED_PER_CHECK)


def _row(name: str, *cells: str) -> str:
    widths = (16, 13, 15, 16)
    return f"{name:<28}" + "".join(map(str.rjust, cells, widths))

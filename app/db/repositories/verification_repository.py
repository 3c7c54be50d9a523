"""Compares what is recorded with what the stored rows say, in the transaction of the caller.

Each comparison is one statement, which answers with what differs and with nothing when nothing
does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.day_digest import describe
from app.db.package_figures import RECENT_DAYS
from app.db.partitions import stored_months
from app.db.rankings import TOP, TRENDING, trend_arguments
from app.db.tables import BY_BYTES, ingested_days
from app.domain.breakdowns import BREAKDOWN_COLUMNS, BREAKDOWNS
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import POPULAR_PACKAGES


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure that was recorded and is another in the rows, or such figures of many packages."""

    day: date
    what: str
    recorded: str
    found: str
    packages: int | None
    """How many packages it is about; None when it is the day itself."""

    example: str | None
    """The package whose figures these are."""

    def __str__(self) -> str:
        packages = f" for {self.example}, 1 of {self.packages:,} packages" if self.packages else ""
        return f"{self.day} {self.what}: recorded {self.recorded}, found {self.found}{packages}"


def _categories(column: str) -> str:
    """A row's categories and their downloads. What is no object of numbers has none, so that it is
    found not to add up, instead of ending the statement.
    """
    return (
        "SELECT key AS category,"
        " CASE jsonb_typeof(value) WHEN 'number' THEN CAST(value AS numeric) END AS downloads "
        f"FROM jsonb_each(CASE json_typeof({column}) WHEN 'object' THEN CAST({column} AS jsonb)"
        " ELSE '{}' END)"
    )


def _sums(what: str, downloads: str, rows: str) -> str:
    """Downloads as the row of all packages has them, and as the others add up to, by category."""
    return (
        f"SELECT {what} AS what,"
        f" sum({downloads}) FILTER (WHERE name = :all_packages) AS recorded,"
        f" sum({downloads}) FILTER (WHERE name <> :all_packages) AS found "
        f"FROM {rows} GROUP BY what"
    )


_OF_ONE_PACKAGE = {breakdown.column for breakdown in BREAKDOWNS if breakdown.is_of_one_package}

_ALL_PACKAGES = " UNION ALL ".join(
    [
        *(_sums(f"'{count}'", count, "stored") for count in ("with_mirrors", "without_mirrors")),
        *(
            _sums(
                f"'{column} ' || category",
                "downloads",
                f"stored CROSS JOIN LATERAL ({_categories(column)}) AS categories",
            )
            for column in BREAKDOWN_COLUMNS
            if column not in _OF_ONE_PACKAGE
        ),
    ]
)
# What was not ingested adds up to nothing, rather than to zero.
_ROW_SUMS = ", ".join(
    f"('{column}', CASE WHEN {column} IS NOT NULL THEN"
    f" (SELECT coalesce(sum(downloads), 0) FROM ({_categories(column)}) AS of_a_row) END)"
    for column in BREAKDOWN_COLUMNS
)

# Of many packages that differ in the same, the first by name stands for all.
_ONE_OF_MANY = (
    "SELECT DISTINCT ON (what) day, what, recorded, found, count(*) OVER (PARTITION BY what), name "
    "FROM differing ORDER BY what, name"
)

# The day's rows are read once for all comparisons: nothing but reading their month finds them.
_DAY = f"""
WITH stored AS MATERIALIZED (
    SELECT
        packages.id IS NULL AS is_unknown,
        coalesce(name, 'package_id ' || package_id) AS name,
        with_mirrors, without_mirrors, {", ".join(BREAKDOWN_COLUMNS)}
    FROM daily_downloads LEFT JOIN packages ON packages.id = package_id
    WHERE date = :day
),
of_packages AS (SELECT * FROM stored WHERE name <> :all_packages),
differing AS (
    SELECT CAST(:day AS date) AS day, name, what || ' of a row' AS what,
        CAST(without_mirrors AS text) AS recorded, CAST(found AS text) AS found
    FROM stored CROSS JOIN LATERAL (VALUES {_ROW_SUMS}) AS sums (what, found)
    WHERE without_mirrors <> found
    UNION ALL
    SELECT :day, name, 'rows of no package', '0', '1' FROM stored WHERE is_unknown
)
SELECT CAST(:day AS date), what, recorded, found, CAST(NULL AS bigint), NULL
FROM ingested_days AS record
CROSS JOIN ({describe("of_packages")}) AS described
CROSS JOIN LATERAL (VALUES
    ('digest', record.digest, described.digest),
    ('packages', CAST(record.packages AS text), CAST(described.packages AS text)),
    ('downloads', CAST(record.downloads AS text), CAST(described.downloads AS text)),
    ('downloads_with_mirrors', CAST(record.downloads_with_mirrors AS text),
        CAST(described.downloads_with_mirrors AS text)),
    ('breakdowns', array_to_string(record.breakdowns, ' '),
        array_to_string(described.breakdowns, ' '))
) AS figures (what, recorded, found)
WHERE record.day = :day AND recorded <> found
UNION ALL
SELECT :day, '{ALL_PACKAGES} ' || what,
    coalesce(CAST(recorded AS text), 'none'), coalesce(CAST(found AS text), 'none'), NULL, NULL
FROM ({_ALL_PACKAGES}) AS sums
WHERE recorded IS DISTINCT FROM found
UNION ALL
({_ONE_OF_MANY})
"""

_RECENT = f"""
WITH series AS (
    SELECT package_id,
        sum(without_mirrors) FILTER (WHERE date = :latest) AS last_day,
        sum(without_mirrors) FILTER (WHERE date > :week) AS last_week,
        sum(without_mirrors) FILTER (WHERE date > :trend AND date <= :week) AS previous_week,
        sum(without_mirrors) AS last_month
    FROM daily_downloads WHERE date > :month AND date <= :latest
    GROUP BY package_id
),
differing AS (
    SELECT CAST(:latest AS date) AS day, name, what,
        CAST(recorded AS text) AS recorded, CAST(coalesce(found, 0) AS text) AS found
    FROM packages LEFT JOIN series ON package_id = id
    CROSS JOIN LATERAL (VALUES
        ('last_day', packages.last_day, series.last_day),
        ('last_week', packages.last_week, series.last_week),
        ('previous_week', packages.previous_week, series.previous_week),
        ('last_month', packages.last_month, series.last_month)
    ) AS figures (what, recorded, found)
    WHERE recorded <> coalesce(found, 0)
)
{_ONE_OF_MANY}
"""

# What ranks say is held against the figures that they rank.
_RANKS = f"""
WITH ranked AS (
    SELECT name, month_rank, is_popular,
        CASE WHEN last_month > 0 AND name <> :all_packages THEN row_number() OVER
            (ORDER BY name = :all_packages, last_month DESC, name {BY_BYTES}) END AS rank
    FROM packages
),
differing AS (
    SELECT CAST(:latest AS date) AS day, name, what,
        coalesce(recorded, 'none') AS recorded, coalesce(found, 'none') AS found
    FROM ranked CROSS JOIN LATERAL (VALUES
        ('month_rank', CAST(month_rank AS text), CAST(rank AS text)),
        ('is_popular', CAST(is_popular AS text),
            CAST(coalesce(rank <= {POPULAR_PACKAGES}, false) AS text))
    ) AS ranks (what, recorded, found)
    WHERE recorded IS DISTINCT FROM found
)
{_ONE_OF_MANY}
"""

_RANKINGS = f"""
WITH recorded AS (
    SELECT 'top of ' || period AS what, rank, name, concat_ws(' ', name, downloads) AS entry
    FROM top_packages
    UNION ALL
    SELECT 'trending', rank, name, concat_ws(' ', name, last_week, previous_week)
    FROM trending_packages
),
found AS (
    SELECT 'top of ' || period AS what, rank, name, concat_ws(' ', name, downloads) AS entry
    FROM ({TOP}) AS top
    UNION ALL
    SELECT 'trending', rank, name, concat_ws(' ', name, last_week, previous_week)
    FROM ({TRENDING}) AS trending
),
differing AS (
    SELECT CAST(:latest AS date) AS day, what || ', rank ' || rank AS what,
        coalesce(recorded.entry, 'none') AS recorded, coalesce(found.entry, 'none') AS found
    FROM recorded FULL JOIN found USING (what, rank)
    WHERE recorded.entry IS DISTINCT FROM found.entry
)
SELECT day, what, recorded, found, NULL, NULL FROM differing ORDER BY what
"""

_LAST_SEEN = f"""
WITH differing AS (
    SELECT last_seen AS day, name,
        CASE WHEN found IS NULL THEN 'last_seen, without a row' ELSE 'last_seen' END AS what,
        CAST(last_seen AS text) AS recorded, coalesce(CAST(found AS text), 'none') AS found
    FROM packages CROSS JOIN LATERAL (
        SELECT max(date) AS found FROM daily_downloads WHERE package_id = id
    ) AS latest
    WHERE last_seen IS DISTINCT FROM found
)
{_ONE_OF_MANY}
"""

_LEFT_OVER = """
SELECT date, 'rows of a day that is not published', '0', CAST(count(*) AS text), NULL, NULL
FROM daily_downloads
WHERE date >= :first AND date < :next
    AND NOT EXISTS (SELECT FROM ingested_days WHERE day = date)
GROUP BY date ORDER BY date
"""


class VerificationRepository:
    """All on one connection, whose transaction sees one state of everything."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def published_days(self) -> list[date]:
        """Also those before the window, oldest first."""
        days = await self._connection.scalars(select(ingested_days.c.day).order_by("day"))
        return list(days)

    async def stored_months(self) -> list[tuple[date, date]]:
        return await stored_months(self._connection)

    async def differences_of_day(self, day: date) -> list[Difference]:
        """The day's rows against its record, against the row of all packages, and in themselves."""
        return await self._differences(_DAY, {"day": day, "all_packages": ALL_PACKAGES})

    async def differences_of_recent(self) -> list[Difference]:
        """What is stored for `recent`, and for the week before, against the series."""
        latest = await self._latest_day()
        if latest is None:
            return []
        return await self._differences(
            _RECENT,
            {
                **trend_arguments(latest),
                "week": latest - timedelta(days=7),
                "month": latest - timedelta(days=RECENT_DAYS),
            },
        )

    async def differences_of_rankings(self) -> list[Difference]:
        """Ranks and rankings against the stored figures."""
        latest = await self._latest_day()
        if latest is None:
            return []
        return [
            *await self._differences(_RANKS, {"latest": latest, "all_packages": ALL_PACKAGES}),
            *await self._differences(_RANKINGS, trend_arguments(latest)),
        ]

    async def differences_of_last_seen(self) -> list[Difference]:
        """When packages were seen last against their rows; some may have none."""
        return await self._differences(_LAST_SEEN, {})

    async def left_over(self, month: tuple[date, date]) -> list[Difference]:
        """Rows of days that are not published, in a month."""
        first, following = month
        return await self._differences(_LEFT_OVER, {"first": first, "next": following})

    async def _latest_day(self) -> date | None:
        latest: date | None = await self._connection.scalar(select(func.max(ingested_days.c.day)))
        return latest

    async def _differences(self, query: str, arguments: Mapping[str, object]) -> list[Difference]:
        return [Difference(*row) for row in await self._connection.execute(text(query), arguments)]

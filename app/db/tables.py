"""The database schema, which the migrations create and the queries use."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from types import UnionType
from typing import Any, get_args, get_type_hints

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.types import TypeEngine

from app.domain.breakdowns import BREAKDOWN_COLUMNS, OPTIONAL_COLUMNS
from app.domain.downloads import HeldDay, IngestRun, PublishedDay, RunOutcome
from app.domain.events import CountedFiles
from app.domain.months import StoredMonth
from app.domain.rankings import RANKED_PACKAGES

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_SQL_TYPES: Mapping[object, TypeEngine[Any]] = {
    date: Date(),
    datetime: DateTime(timezone=True),
    int: BigInteger(),
    bool: Boolean(),
    str: Text(),
    CountedFiles: Text(),
    RunOutcome: Text(),
    Sequence[str]: ARRAY(Text),
    Sequence[date]: ARRAY(Date),
    Mapping[str, Sequence[str]]: JSON(),
}


def _columns(values: type) -> Iterator[Column[Any]]:
    """Yield a column for each field of a dataclass. A field that may be None may be NULL."""
    for name, hint in get_type_hints(values).items():
        type_, *others = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        yield Column(name, _SQL_TYPES[type_], nullable=bool(others))


def _totals() -> Iterator[Column[Any]]:
    yield Column("with_mirrors", BigInteger, nullable=False)
    yield Column("without_mirrors", BigInteger, nullable=False)


def _breakdowns(nullable: Sequence[str]) -> Iterator[Column[Any]]:
    """Yield a column for the counts by category of each breakdown.

    Counts are stored as the text of a JSON object, with sorted keys and without spaces. It is a
    third smaller than `jsonb`.
    """
    for name in BREAKDOWN_COLUMNS:
        yield Column(name, JSON, nullable=name in nullable)


def _sum(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


_RANK = "1 is the most downloaded package. NULL for __all__ and without downloads."

# Every publish rewrites the figures of most packages. Figures are not indexed and the pages are
# half empty, so that Postgres stores the new version of a row beside the old one and no index
# grows. `is_popular` can be indexed, because it rarely changes.
packages = Table(
    "packages",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column(
        "last_seen",
        Date,
        comment="Latest day with a row in daily_downloads. NULL without such rows.",
    ),
    *map(_sum, ("last_day", "last_week", "last_month", "previous_week")),
    Column("month_rank", Integer, comment=_RANK),
    Column("is_popular", Boolean, nullable=False, server_default=text("false")),
    comment="Packages with a row in daily_downloads or monthly_downloads, and their downloads, "
    "mirrors excluded, in the 1, 7 and 30 days that end with the latest published one.",
    postgresql_with={"fillfactor": 50},
)

# The indexes order names by their bytes, whatever the database's collation, so that they also find
# prefixes.
BY_BYTES = 'COLLATE "C"'
_by_bytes = {"name": BY_BYTES}
Index("ix_packages_name", packages.c.name, postgresql_ops=_by_bytes)
Index(
    "ix_packages_popular",
    packages.c.name,
    postgresql_ops=_by_bytes,
    postgresql_where=packages.c.is_popular,
)

TRIGRAM_INDEX = "ix_packages_popular_trigrams"
"""Trigram index of the names of popular packages. It exists only if the server has pg_trgm."""

# Each publish rewrites the rankings in its transaction.
top_packages = Table(
    "top_packages",
    metadata,
    Column("period", Text, primary_key=True, comment="day, week, month or all."),
    Column("rank", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("downloads", BigInteger, nullable=False),
    comment="The packages with the most downloads, mirrors excluded.",
)

trending_packages = Table(
    "trending_packages",
    metadata,
    Column("rank", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("last_week", BigInteger, nullable=False),
    Column("previous_week", BigInteger, nullable=False),
    comment="The packages whose downloads grew most from week to week, mirrors excluded.",
)

_POSSIBLE = "0 <= without_mirrors AND without_mirrors <= with_mirrors"

# The table has one row per package and day, and one partition per month. Adding or replacing a day
# changes no rows of other days, and dropping a month leaves nothing to vacuum. There is no foreign
# key to packages, because a publish would have to look up each row, and only publishes and
# retention write here.
daily_downloads = Table(
    "daily_downloads",
    metadata,
    Column("package_id", Integer, autoincrement=False),
    Column("date", Date),
    *_totals(),
    *_breakdowns(nullable=OPTIONAL_COLUMNS),
    # The key includes the totals, so that reading them touches a few index pages instead of one
    # table page per day.
    PrimaryKeyConstraint(
        "package_id", "date", postgresql_include=["with_mirrors", "without_mirrors"]
    ),
    CheckConstraint(_POSSIBLE, "counts"),
    # A day's rows are stored next to each other, so a tiny index of page ranges finds them.
    Index(None, "date", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    postgresql_partition_by="RANGE (date)",
)

ingested_days = Table(
    "ingested_days",
    metadata,
    *_columns(PublishedDay),
    PrimaryKeyConstraint("day"),
    comment="Published days: those with rows in daily_downloads.",
)

# The table has one row per package and month. It has no partitions, because retention keeps months.
# `app/domain/months.py` describes the form of the counts.
monthly_downloads = Table(
    "monthly_downloads",
    metadata,
    Column("package_id", Integer, autoincrement=False),
    Column("month", Date),
    *_totals(),
    Column("rank", Integer, comment=_RANK),
    *_breakdowns(nullable=BREAKDOWN_COLUMNS),
    # Summing the downloads of all months reads only index pages. Further columns would add a
    # twentieth to the size of a month.
    PrimaryKeyConstraint("package_id", "month", postgresql_include=["without_mirrors"]),
    CheckConstraint(_POSSIBLE, "counts"),
    # As in daily_downloads, the rows of a month are stored next to each other.
    Index(None, "month", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
)
Index(
    "ix_monthly_downloads_top",
    monthly_downloads.c.month,
    monthly_downloads.c.rank,
    postgresql_where=monthly_downloads.c.rank <= RANKED_PACKAGES,
)

stored_months = Table(
    "stored_months",
    metadata,
    *_columns(StoredMonth),
    PrimaryKeyConstraint("month"),
    comment="Stored months: those with rows in monthly_downloads.",
)

# Every query for a response also reads `published_at`, which identifies the publish that it saw.
publication = Table(
    "publication",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("published_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("id = 1", "one_row"),
    comment="The latest publish: one row, or none before the first.",
)

held_days = Table(
    "held_days",
    metadata,
    *_columns(HeldDay),
    PrimaryKeyConstraint("day"),
    comment="Days that were read and are not published, since they do not look plausible.",
)

# The table needs no key, because a day's rows are always added and deleted together.
held_downloads = Table(
    "held_downloads",
    metadata,
    Column("day", Date, nullable=False),
    Column("name", Text, nullable=False),
    *_totals(),
    *_breakdowns(nullable=OPTIONAL_COLUMNS),
    comment="Rows of held days, which are not served.",
)

ingest_runs = Table(
    "ingest_runs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    *(column for column in _columns(IngestRun) if column.name != "id"),
    comment="Runs that read a day from a source, or published a day after it was held.",
)

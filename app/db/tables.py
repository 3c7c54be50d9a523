"""The database schema, which the migrations create and the queries use."""

from typing import Any

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
from sqlalchemy.dialects.postgresql import ARRAY

from app.db.breakdown_columns import optional_column, required_column
from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partition() -> list[Column[Any]]:
    """Columns of the source's partition before a day was read; NULL if the source has none."""
    return [
        Column("partition_rows", BigInteger, comment="Rows of the source's partition."),
        Column(
            "partition_modified_at",
            DateTime(timezone=True),
            comment="When the source's partition was last modified.",
        ),
    ]


def _figures() -> list[Column[Any]]:
    """Columns of a day that was read, whether it is published or held."""
    return [
        Column("day", Date, primary_key=True),
        Column("source", Text, nullable=False),
        Column(
            "counted_files",
            Text,
            nullable=False,
            comment="Rule of INGEST_COUNTED_FILES that the day was counted by: all or artifacts.",
        ),
        Column("packages", Integer, nullable=False, comment="Packages with a row that day."),
        Column(
            "downloads",
            BigInteger,
            nullable=False,
            comment="Downloads of all packages, mirrors excluded.",
        ),
        Column(
            "downloads_with_mirrors",
            BigInteger,
            nullable=False,
            comment="Downloads of all packages.",
        ),
        Column(
            "digest",
            Text,
            nullable=False,
            comment="Digest of the day's rows, independent of their order.",
        ),
        Column(
            "breakdowns",
            ARRAY(Text),
            nullable=False,
            comment="Optional columns that the day's rows have.",
        ),
        *_partition(),
    ]


def _counts() -> list[Column[Any]]:
    return [
        *map(required_column, REQUIRED_COLUMNS),
        *map(optional_column, OPTIONAL_COLUMNS),
    ]


# Every publish rewrites the figures of most packages. No figure is indexed and the pages are half
# empty, so Postgres stores the new version of a row beside the old one and no index grows.
# `is_popular` may be indexed, because it rarely changes.
packages = Table(
    "packages",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True, comment="Normalised, or __all__."),
    Column("last_seen", Date, nullable=False, comment="Latest day with a row in daily_downloads."),
    Column("last_day", BigInteger, nullable=False, server_default=text("0")),
    Column("last_week", BigInteger, nullable=False, server_default=text("0")),
    Column("last_month", BigInteger, nullable=False, server_default=text("0")),
    Column(
        "previous_week",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Downloads in the 7 days before those of last_week.",
    ),
    Column(
        "month_rank",
        Integer,
        comment="Rank by last_month; 1 has most. NULL for __all__ and without downloads.",
    ),
    Column(
        "is_popular",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="True if among the first by month_rank, which search reads first.",
    ),
    comment="Packages with a row in daily_downloads, and their downloads, mirrors excluded, in the "
    "1, 7 and 30 days that end with the latest published one.",
    postgresql_with={"fillfactor": 50},
)

# The indexes order names by their bytes, whatever the database's collation, so that they find
# prefixes too.
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
"""Trigram index of the names of popular packages, if the server has pg_trgm."""

# Each publish rewrites the rankings in its transaction.
top_packages = Table(
    "top_packages",
    metadata,
    Column("period", Text, primary_key=True, comment="day, week or month."),
    Column(
        "rank",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="Rank; 1 has most downloads.",
    ),
    Column("name", Text, nullable=False),
    Column("downloads", BigInteger, nullable=False, comment="Downloads in the period."),
    comment="The packages with most downloads, mirrors excluded.",
)

trending_packages = Table(
    "trending_packages",
    metadata,
    Column("rank", Integer, primary_key=True, autoincrement=False, comment="Rank; 1 grew most."),
    Column("name", Text, nullable=False),
    Column("last_week", BigInteger, nullable=False),
    Column("previous_week", BigInteger, nullable=False),
    comment="The packages whose downloads grew most from week to week, mirrors excluded.",
)

# The table has one row per package and day, and one partition per month. Adding or replacing a day
# touches no other day, and dropping a month leaves nothing to vacuum. There is no foreign key to
# packages, because checking it would cost a publish one lookup per row, and only publishes and
# retention write here.
daily_downloads = Table(
    "daily_downloads",
    metadata,
    Column("package_id", Integer, autoincrement=False),
    Column("date", Date),
    Column("with_mirrors", BigInteger, nullable=False),
    Column("without_mirrors", BigInteger, nullable=False),
    *_counts(),
    # The key includes the totals, so that reading them touches a few index pages instead of one
    # table page per day.
    PrimaryKeyConstraint(
        "package_id", "date", postgresql_include=["with_mirrors", "without_mirrors"]
    ),
    CheckConstraint("0 <= without_mirrors AND without_mirrors <= with_mirrors", "counts"),
    # A day's rows are stored next to each other, so a tiny index of page ranges finds them.
    Index(None, "date", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    postgresql_partition_by="RANGE (date)",
)

ingested_days = Table(
    "ingested_days",
    metadata,
    *_figures(),
    Column("published_at", DateTime(timezone=True), nullable=False),
    Column(
        "checked_at",
        DateTime(timezone=True),
        nullable=False,
        comment="When the source was last read or checked for the day, whether or not it had "
        "changed.",
    ),
    Column(
        "suspect_reason",
        Text,
        comment="How the day deviates from its neighbours. NULL if it does not.",
    ),
    comment="Published days: those with rows in daily_downloads.",
)

# Every query for a response reads this time, which identifies the publish that the query saw.
publication = Table(
    "publication",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column(
        "published_at",
        DateTime(timezone=True),
        nullable=False,
        comment="When the last statement of the latest publish ran. Different for each publish.",
    ),
    CheckConstraint("id = 1", "one_row"),
    comment="The latest publish: one row, or none before the first.",
)

# The rows of held days are in held_downloads.
held_days = Table(
    "held_days",
    metadata,
    *_figures(),
    Column("reason", Text, nullable=False, comment="Why it was not published."),
    Column("held_since", DateTime(timezone=True), nullable=False),
    Column(
        "read_at",
        DateTime(timezone=True),
        nullable=False,
        comment="When it was last read, or checked and unchanged.",
    ),
    Column("readings", Integer, nullable=False, comment="How often it was read or checked."),
    Column(
        "same_since",
        DateTime(timezone=True),
        nullable=False,
        comment="When these rows were first read.",
    ),
    Column(
        "wrong_rows",
        Integer,
        nullable=False,
        comment="Rows that were left out, since their counts are wrong.",
    ),
    comment="Days that were read and are not published, since they do not look plausible.",
)

# The table needs no key, because a day's rows are always added and deleted together.
held_downloads = Table(
    "held_downloads",
    metadata,
    Column("day", Date, nullable=False),
    Column("name", Text, nullable=False),
    Column("with_mirrors", BigInteger, nullable=False),
    Column("without_mirrors", BigInteger, nullable=False),
    *_counts(),
    comment="Rows of held days, which are not served.",
)

ingest_runs = Table(
    "ingest_runs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("day", Date, nullable=False),
    Column("source", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column(
        "ended_at",
        DateTime(timezone=True),
        comment="NULL while it runs, and when its process was killed.",
    ),
    Column(
        "outcome",
        Text,
        nullable=False,
        comment="running, published, unchanged, held, failed, stopped or interrupted.",
    ),
    Column("query", Text, comment="The source's query, whose result can be read again at no cost."),
    Column("rows", Integer, comment="Packages that the source returned."),
    Column("bytes_billed", BigInteger, comment="NULL if the source has not reported it."),
    Column("error", Text, comment="Why the day was held, or what failed."),
    *_partition(),
    comment="Runs that read a day from a source, or published a day after it was held.",
)

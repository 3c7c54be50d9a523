"""Reads of published data. Each query also returns which publication it saw."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Select, TextualSelect, select, true

from app.db.statements import Source, Statement, fetch
from app.db.tables import publication
from app.domain.downloads import Publication
from app.errors import OtherPublicationError


def published_statement(query: Select[Any] | TextualSelect, *order: str) -> Statement:
    """Return a statement for `PublishedReads` whose rows are in the order of these columns.

    Each row starts with the time of the latest publish in the query's own snapshot. If the query
    has no rows, the statement returns one row with only the time. The first column of the query is
    never NULL.
    """
    latest = select(publication.c.published_at).scalar_subquery()
    seen = select(latest.label("published_at")).subquery("seen")
    rows = query.subquery("rows")
    statement = select(seen, rows).select_from(seen.outerjoin(rows, true()))
    return Statement(statement.order_by(*(rows.c[column] for column in order)))


class PublishedReads:
    """A repository of published data."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.expected_publish: datetime | None = None
        """Time of the publish that reads have to see, or None to accept any publish."""

    def reading(self, source: Source, expected: Publication | None) -> Self:
        """Return this repository on another source. If its reads see another publication than the
        expected one, they raise `OtherPublicationError`.
        """
        # This runs for each query, and `copy.copy` takes as long as an answer from the response
        # cache.
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.source = source
        other.expected_publish = expected.published_at if expected else None
        return other

    async def _read(self, statement: Statement, **arguments: object) -> Sequence[tuple[Any, ...]]:
        rows = await fetch(self.source, statement, **arguments)
        if self.expected_publish and rows[0][0] != self.expected_publish:
            raise OtherPublicationError
        return [row[1:] for row in rows if row[1] is not None]

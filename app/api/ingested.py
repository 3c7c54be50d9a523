"""The check that an instance has figures of a breakdown."""

from app.db.repositories.downloads_repository import SeriesRange
from app.domain.breakdowns import Breakdown
from app.domain.downloads import Publication
from app.errors import NotFoundError


def check_ingested(breakdown: Breakdown, publication: Publication, range_: SeriesRange) -> None:
    """Raise `NotFoundError` if no published day or month to read has figures of the breakdown."""
    if not (publication.has(breakdown) or range_.read_months(breakdown)):
        raise NotFoundError(
            f"No published day has the breakdown {breakdown.name}. If the operator adds it to the "
            "setting INGEST_BREAKDOWNS, days that are read afterwards have it."
        )

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.days import days_ago, downloads, publish


@pytest.fixture
async def two_days(engine: AsyncEngine) -> None:
    """Two days of downloads, by which every category is there."""
    await publish(
        engine,
        days_ago(1),
        downloads(
            "zope-interface",
            {"2.7": 1, "3.9": 20, "3.10": 300, "null": 4000},
            {"windows": 4000, "linux": 300, "darwin": 20, "null": 1},
            mirrors=50000,
        ),
        downloads("mirrored-only", 0, mirrors=3),
    )
    await publish(
        engine,
        days_ago(0),
        downloads(
            "zope-interface", {"3.9": 21, "3.10": 301}, {"linux": 302, "other": 20}, mirrors=6
        ),
        downloads("requests", 7),
    )

"""All that a database holds, to compare it with itself before and after."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.tables import (
    daily_downloads,
    held_days,
    held_downloads,
    ingested_days,
    monthly_downloads,
    packages,
    stored_months,
    top_packages,
    trending_packages,
)

Everything = dict[str, list[tuple[object, ...]]]


async def everything(engine: AsyncEngine) -> Everything:
    """All that is published and held, but for when that was done and which ids it got."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            select(packages.c.name, *daily_downloads.c[1:])
            .join(packages, packages.c.id == daily_downloads.c.package_id)
            .order_by(packages.c.name, daily_downloads.c.date)
        )
        known = await connection.execute(select(*packages.c[1:]).order_by(packages.c.name))
        others = ("day", "published_at", "checked_at", "announced_at")
        figures = (column for column in ingested_days.c if column.name not in others)
        days = await connection.execute(
            select(ingested_days.c.day, *figures).order_by(ingested_days.c.day)
        )
        held = await connection.execute(
            select(held_days.c.day, held_days.c.digest).order_by(held_days.c.day)
        )
        waiting = await connection.execute(
            select(held_downloads).order_by(held_downloads.c.day, held_downloads.c.name)
        )
        top = await connection.execute(
            select(top_packages).order_by(top_packages.c.period, top_packages.c.rank)
        )
        trending = await connection.execute(
            select(trending_packages).order_by(trending_packages.c.rank)
        )
        by_month = (monthly_downloads.c.month, packages.c.name)
        monthly = await connection.execute(
            select(packages.c.name, *monthly_downloads.c[1:])
            .join(packages, packages.c.id == monthly_downloads.c.package_id)
            .order_by(*by_month)
        )
        figures = (
            column
            for column in stored_months.c
            if column.name not in {"rolled_up_at", "announced_at"}
        )
        months = await connection.execute(select(*figures).order_by(stored_months.c.month))
        return {
            "monthly rows": [tuple(row) for row in monthly],
            "months": [tuple(row) for row in months],
            "rows": [tuple(row) for row in rows],
            "packages": [tuple(row) for row in known],
            "top": [tuple(row) for row in top],
            "trending": [tuple(row) for row in trending],
            "days": [tuple(row) for row in days],
            "held days": [tuple(row) for row in held],
            "held rows": [tuple(row) for row in waiting],
        }

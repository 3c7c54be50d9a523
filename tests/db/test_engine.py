import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import asyncpg_url, connect, create_engine
from app.errors import DatabaseUnavailableError


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h:1/d", "postgresql+asyncpg://u:p@h:1/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgres://u@h/d?sslmode=require", "postgresql+asyncpg://u@h/d?ssl=require"),
        (
            "postgres://u@h/d?connect_timeout=3&sslmode=require&channel_binding=require",
            "postgresql+asyncpg://u@h/d?ssl=require",
        ),
    ],
)
def test_any_postgres_url_will_do(given: str, used: str) -> None:
    assert asyncpg_url(given).render_as_string(hide_password=False) == used


async def test_a_connection_that_is_cut_is_unavailable_and_the_next_one_works(
    engine: AsyncEngine,
) -> None:
    with pytest.raises(DatabaseUnavailableError, match="went away"):
        async with connect(engine) as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with connect(engine) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


async def test_what_is_wrong_with_a_statement_stays_what_it_is(engine: AsyncEngine) -> None:
    with pytest.raises(DBAPIError, match="nothing"):
        async with connect(engine) as connection:
            await connection.execute(text("SELECT * FROM nothing"))


async def test_a_statement_that_waits_too_long_gives_its_place_away(database_url: str) -> None:
    engine = create_engine(database_url, statement_timeout_seconds=0.2)
    with pytest.raises(DatabaseUnavailableError, match="too long"):
        async with connect(engine) as connection:
            await connection.execute(text("SELECT pg_sleep(5)"))
    async with connect(engine) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize("database", ["no_such_database"])
async def test_a_database_that_refuses_is_unavailable(server_url: str, database: str) -> None:
    engine = create_engine(server_url.replace("/pypi_stats?", f"/{database}?"))
    with pytest.raises(DatabaseUnavailableError, match=database):
        async with connect(engine):
            pass
    await engine.dispose()

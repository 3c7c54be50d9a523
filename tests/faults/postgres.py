"""A Postgres of a test's own, that it can take away and bring back."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGQUIT
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.db.embedded import embedded_postgres
from app.db.engine import connect, create_engine
from app.db.migrations import migrate
from tests.faults.proxy import Connect, Proxy
from tests.waiting import wait_until


@dataclass(frozen=True)
class Server:
    data_dir: Path
    url: str
    _uses: ExitStack

    def kill(self) -> None:
        """All its processes end at once, wherever they are, and leave what is half done. Nothing
        else happens in this process before they have ended.
        """
        pid_file = self.data_dir / "postgres" / "postmaster.pid"
        os.kill(int(pid_file.read_text().splitlines()[0]), SIGQUIT)
        wait_until(lambda: not pid_file.exists())

    async def start(self) -> None:
        await asyncio.to_thread(self._uses.enter_context, embedded_postgres(self.data_dir))


@asynccontextmanager
async def own_server(data_dir: Path) -> AsyncIterator[Server]:
    """Start a server with a migrated database."""
    with ExitStack() as uses:
        url = await asyncio.to_thread(uses.enter_context, embedded_postgres(data_dir))
        engine = create_engine(url)
        async with connect(engine) as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            # What is killed here is the server, and not the machine.
            await connection.execute(text("ALTER SYSTEM SET fsync = off"))
            await connection.execute(text("SELECT pg_reload_conf()"))
        await migrate(engine)
        await engine.dispose()
        yield Server(data_dir, url, uses)


def connect_to(server_url: str) -> Connect:
    """Where a proxy of this server goes."""
    (folder,) = parse_qs(urlsplit(server_url).query)["host"]
    return lambda: asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")


def through(proxy: Proxy, database_url: str) -> str:
    """The database's URL by way of the proxy."""
    url = make_url(database_url).set(host="127.0.0.1", port=proxy.port, query={})
    return url.render_as_string(hide_password=False)

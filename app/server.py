"""Runs the server processes."""

import os
import signal
import socket
from tempfile import TemporaryDirectory

import uvicorn
from uvicorn.supervisors.multiprocess import Multiprocess

from app.errors import ServerStartError, SettingsError
from app.http_protocol import BoundedHTTPProtocol
from app.metrics import MULTIPROCESS_FOLDER
from app.settings import Settings

GRACEFUL_STOP_SECONDS = 30
"""How long a stop waits for requests that are being answered."""


def check_address(host: str, port: int) -> None:
    """Raise before anything is started when the address can't be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"HOST={host} PORT={port}: should be an address that is free to listen on: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error


class Workers(Multiprocess):
    """Several server processes, stopped together."""

    def handle_hup(self) -> None:
        """Stop, as one process does: uvicorn would start all anew, without their terminal."""
        self.handle_term()


def run_server(settings: Settings) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then finish what is being answered.

    The server processes read their settings from the environment. Raises `ServerStartError`.
    """
    config = uvicorn.Config(
        "app.main:create_app_from_environment",
        factory=True,
        http=BoundedHTTPProtocol,
        # Nothing here speaks it.
        ws="none",
        # The service writes its own line for each request.
        access_log=False,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_STOP_SECONDS,
    )
    if settings.workers == 1:
        server = uvicorn.Server(config)
        # uvicorn answers to signals by itself, and raises them again once it has stopped: by then
        # this changes nothing. Before it listens to them, it stops as soon as it has started.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        server.run(sockets=[config.bind_socket()])
        if not server.started:
            raise ServerStartError
        return
    hang_up = signal.getsignal(signal.SIGHUP)
    with TemporaryDirectory(prefix="pypi-stats-metrics-") as folder:
        os.environ[MULTIPROCESS_FOLDER] = folder
        workers = Workers(config, sockets=[config.bind_socket()])
        if hang_up is signal.SIG_IGN:  # As under nohup.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        workers.run()

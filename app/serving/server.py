"""Runs the server processes."""

import asyncio
import logging
import os
import signal
import socket
from contextlib import suppress
from tempfile import TemporaryDirectory
from time import monotonic
from types import FrameType

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app.errors import OperatorError, SettingsError
from app.logs import LOG_STREAM, configure_logging
from app.metrics import MULTIPROCESS_FOLDER
from app.serving.connection_timers import CLIENT_READ_TIMEOUT_SECONDS
from app.serving.protocol import BoundedHTTPProtocol
from app.settings import Settings

log = logging.getLogger(__name__)

SERVER_CLOSE_SECONDS = 0.8
"""How long the app may take to close after the last request. Its lifespan takes less."""

TASKS_CLOSE_SECONDS = 0.2
"""How long cancelled tasks may take to end."""

WORKERS_CLOSE_SECONDS = 1.0
"""How long worker processes may take to end after the last request. Then they are killed."""

CONNECTIONS_CLOSE_SECONDS = 1.3
"""How long everything may take to close after the last request. With the time that Python needs to
exit, this stays below 2 s.
"""


UNSENT_BYTES = 128 * 1024
"""Maximum length of a response's unsent part in the buffers of the operating system."""

MIN_WORKER_SECONDS = 10.0
"""A worker that exits within this time after its start counts as one that failed to start."""

NOT_STARTED = "the server did not start: its log says why"


class StopDeadline:
    """The deadlines after the signal to stop: for running requests, and a little later for closing
    the app.
    """

    def __init__(self, graceful_stop_seconds: float) -> None:
        self._seconds = graceful_stop_seconds
        self._requests_end_at: float | None = None

    def start(self) -> None:
        """Start the time for running requests, unless it has started already."""
        if self._requests_end_at is None:
            self._requests_end_at = monotonic() + self._seconds

    def seconds_left(self, close_seconds: float = CONNECTIONS_CLOSE_SECONDS) -> float:
        """Return the time left for requests, plus `close_seconds`."""
        self.start()
        assert self._requests_end_at is not None
        return max(self._requests_end_at + close_seconds - monotonic(), 0.0)


def check_address(host: str, port: int) -> None:
    """Raise `SettingsError` if the server can't listen on this address."""
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


def bound_unread_data(listener: socket.socket) -> None:
    """Limit what the system buffers for clients that do not read, if it supports that.

    Accepted connections inherit these options.
    """
    for name, value in (
        # By default the system buffers the rest of a closed connection for minutes.
        ("TCP_USER_TIMEOUT", int(CLIENT_READ_TIMEOUT_SECONDS * 1000)),
        # By default the system buffers a response of megabytes, so that no `ReaderTimer` starts.
        ("TCP_NOTSENT_LOWAT", UNSENT_BYTES),
    ):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Server(uvicorn.Server):
    """The server of a single process. It stops in time even if the app hangs."""

    def __init__(self, config: uvicorn.Config, deadline: StopDeadline) -> None:
        super().__init__(config)
        self._deadline = deadline

    def stop(self) -> None:
        """Stop the server. If it is still starting, it stops afterwards."""
        self._deadline.start()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGINT or SIGTERM while the server runs."""
        self._deadline.start()
        super().handle_exit(sig, frame)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until stopped. Unlike `asyncio.run`, abandon tasks and threads that do not end."""
        new_loop = self.config.get_loop_factory() or asyncio.new_event_loop
        loop = new_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(self.serve(sockets))
        # These tasks were cancelled when the app closed. Cancelling them again would interrupt
        # their clean-up.
        tasks = asyncio.all_tasks(loop)
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=TASKS_CLOSE_SECONDS))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for running requests, then close the app."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadline.seconds_left(SERVER_CLOSE_SECONDS)):
                await super().shutdown(sockets)


class Workers(Multiprocess):
    """Several server processes, stopped together."""

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], deadline: StopDeadline
    ) -> None:
        super().__init__(config, sockets)
        self._deadline = deadline
        self._started_at = [monotonic()] * config.workers
        """Times at which the workers were started."""

        self.failed_status: int | None = None
        """Exit status of a worker that could not start."""

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_stop)

    def _note_stop(self, number: int, _: FrameType | None) -> None:
        self._deadline.start()
        # uvicorn handles queued signals up to half a second later.
        for worker in self.processes:
            if worker.pid and worker.exitcode is None:
                os.kill(worker.pid, signal.SIGTERM)
        self.signal_queue.append(number)

    def handle_hup(self) -> None:
        """Stop, as a single process does. Without a terminal, uvicorn would restart all workers."""
        self.handle_term()

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended. Stop if one could not start.

        uvicorn's own method also kills workers that do not respond within 5 s. On a busy machine
        that is every worker that starts, and signals are not handled meanwhile.
        """
        for number, worker in enumerate(self.processes):
            if self.should_exit.is_set() or worker.process.is_alive():
                continue
            status = worker.exitcode or 0
            is_new = monotonic() - self._started_at[number] < MIN_WORKER_SECONDS
            # After Ctrl-C, a worker that still imports modules ends with a status above 0.
            if status == STARTUP_FAILURE or (status > 0 and is_new and not self.signal_queue):
                self.failed_status = status
                self.should_exit.set()
                return
            log.warning(
                "worker %d ended with status %s, starting another", worker.pid, worker.exitcode
            )
            # Gauges of the ended process do not count any more.
            mark_process_dead(worker.pid)
            self.processes[number] = Process(self.config, self.sockets)
            self.processes[number].start()
            self._started_at[number] = monotonic()

    def join_all(self) -> None:
        """Wait for the processes to end, and kill those that do not end in time."""
        # Refuse new connections. They would wait for workers that do not accept them.
        for listener in self.sockets:
            listener.close()
        for worker in self.processes:
            worker.process.join(self._deadline.seconds_left(WORKERS_CLOSE_SECONDS))
            if worker.process.is_alive():
                log.warning("worker %d did not stop in time: killed", worker.pid)
                worker.process.kill()
                worker.process.join()


def metrics_folder() -> TemporaryDirectory[str]:
    """Create the folder through which workers share their metrics. Raises `SettingsError`."""
    try:
        return TemporaryDirectory(prefix="pypi-stats-metrics-")
    except OSError as error:
        raise SettingsError(
            f"WORKERS: more than one worker needs a writable /tmp, or TMPDIR ({error.strerror})"
        ) from error


def run_server(settings: Settings, deadline: StopDeadline) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then let running requests finish.

    The server processes read their settings from the environment. Raises `OperatorError`.
    """
    configure_logging(settings.log_level, settings.log_format, LOG_STREAM)
    config = uvicorn.Config(
        "app.main:create_app_from_environment",
        factory=True,
        http=BoundedHTTPProtocol,
        ws="none",
        # `RequestLog` logs the requests.
        access_log=False,
        host=settings.host,
        port=settings.port,
        root_path=settings.root_path,
        workers=settings.workers,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.graceful_stop_seconds,
    )
    listener = config.bind_socket()
    bound_unread_data(listener)
    if settings.workers == 1:
        server = Server(config, deadline)
        # uvicorn handles signals while it serves, and raises them again after it has stopped.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
        server.run(sockets=[listener])
        if not server.started:
            raise OperatorError(NOT_STARTED)
        return
    hang_up = signal.getsignal(signal.SIGHUP)
    with metrics_folder() as folder:
        os.environ[MULTIPROCESS_FOLDER] = folder
        workers = Workers(config, [listener], deadline)
        if hang_up is signal.SIG_IGN:  # nohup ignores the signal.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        workers.run()
        if workers.failed_status == STARTUP_FAILURE:
            raise OperatorError(NOT_STARTED)
        if workers.failed_status:
            raise OperatorError(
                f"a worker could not start, and ended with status {workers.failed_status}"
            )

"""The program: all commands, signals and exit statuses."""

import logging
import signal
import sys
from typing import NoReturn

import click
from asyncpg import PostgresError
from sqlalchemy.exc import DBAPIError

from app.cli.database import exit_on_signal
from app.cli.dumps import export
from app.cli.ingest import backfill, expire, ingest, seed
from app.cli.inspect import history, status, verify
from app.cli.serve import migrate, openapi, serve
from app.errors import OperatorError
from app.logs import LOG_STREAM

log = logging.getLogger(__name__)

PROGRAM = "pypi-stats"


@click.group(
    commands=[
        serve,
        migrate,
        ingest,
        backfill,
        expire,
        seed,
        status,
        history,
        verify,
        export,
        openapi,
    ],
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="pypi-stats-api", message="%(prog)s %(version)s")
def cli() -> None:
    """Self-hosted PyPI download statistics.

    Settings are environment variables or lines of a .env file; docs/configuration.md lists them.
    Without DATABASE_URL, commands that need a database use the embedded Postgres under DATA_DIR,
    and start it if it is not running.

    status, history, verify, export and openapi never change the database.

    The exit status is 0 after success, 1 after a failure, 2 after a wrong argument, 130 after
    Ctrl-C and 143 after SIGTERM, but serve ends with 0 after both. The reason of a failure is one
    line on standard error.
    """


def main() -> NoReturn:
    """Run the command line. An error is printed as one line, and sets the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, exit_on_signal)
    # A closed terminal stops the program like SIGTERM, except under nohup.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        status = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else PROGRAM
        _fail(f"{error.format_message()} ({path} --help)", error.exit_code)
    except OperatorError as error:
        _fail(str(error), 1)
    except (DBAPIError, PostgresError) as error:
        _fail(f"the database refused: {getattr(error, 'orig', error)}", 1)
    except Exception as error:
        if log.isEnabledFor(logging.DEBUG):
            raise
        _fail(f"{type(error).__name__}: {error} (LOG_LEVEL=debug shows where)", 1)
    sys.exit(status)


def _fail(message: str, status: int) -> NoReturn:
    # The error is the last line.
    LOG_STREAM.drain()
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(status)

"""Options, progress and exit of all benchmarks' command lines."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from app.errors import OperatorError

ROOT = Path(__file__).parents[1]

_began = time.monotonic()


class BenchmarkError(Exception):
    """A benchmark can't run. The text is one line."""


def bench_dir() -> Path:
    """Return the folder of data that is reused between runs: databases, responses and logs."""
    folder = Path(os.environ.get("BENCH_DIR") or ROOT / ".bench").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


output_option = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the tables and charts. Default: BENCH_DIR/results.",
)


def results_folder(output: Path | None) -> Path:
    return output or bench_dir() / "results"


def progress(line: str) -> None:
    click.echo(f"[{time.monotonic() - _began:6.1f} s] {line}", err=True)


def main(command: Callable[..., object]) -> NoReturn:
    """Run a benchmark's command, and show a failure as one line. All processes that it started end
    with it.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGTERM, _stop)
    assert isinstance(command, click.Command)
    try:
        command.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except click.UsageError as error:
        _fail(error.format_message(), error.exit_code)
    except (BenchmarkError, OperatorError) as error:
        _fail(str(error), 1)
    sys.exit(0)


def _stop(number: int, _: FrameType | None) -> None:
    # Unlike the default handler, an exception exits all contexts.
    sys.exit(128 + number)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(status)

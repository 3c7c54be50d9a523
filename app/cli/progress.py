"""The progress bar of commands that work through days."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import date
from typing import NoReturn

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@contextmanager
def progress_bar(days: Sequence[date]) -> Iterator["tqdm[NoReturn]"]:
    """A progress bar in a terminal, disabled elsewhere."""
    interactive = sys.stderr.isatty()
    # No thread that watches bars for the rest of the process's life, which may be the service's.
    tqdm.monitor_interval = 0
    with (
        logging_redirect_tqdm() if interactive else nullcontext(),
        tqdm(total=len(days), unit="day", disable=not interactive) as progress,
    ):
        yield progress

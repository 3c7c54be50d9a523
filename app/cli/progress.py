"""Progress of commands that process days: a bar in a terminal, or else lines."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from typing import NoReturn, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@dataclass(frozen=True, slots=True)
class Progress:
    bar: "tqdm[NoReturn]"

    def write(self, line: object, file: TextIO | None = None) -> None:
        """Show a line, above the bar if there is one, on standard error by default."""
        self.bar.write(str(line), file=file or sys.stderr)

    def advance(self, line: object = None) -> None:
        """Count a day. Show the line only if there is no bar."""
        if line is not None and self.bar.disable:
            self.write(line)
        self.bar.update()


@contextmanager
def progress_of(days: Sequence[date]) -> Iterator[Progress]:
    interactive = sys.stderr.isatty()
    # Disable tqdm's monitor, a thread that would run until the process ends, even in the service.
    tqdm.monitor_interval = 0
    with (
        logging_redirect_tqdm() if interactive else nullcontext(),
        tqdm(total=len(days), unit="day", disable=not interactive) as bar,
    ):
        yield Progress(bar)

"""Progress of commands that work through days: a bar in a terminal, lines elsewhere."""

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
        """Count a day. The line is shown where there is no bar that shows the same."""
        if line is not None and self.bar.disable:
            self.write(line)
        self.bar.update()


@contextmanager
def progress_of(days: Sequence[date]) -> Iterator[Progress]:
    interactive = sys.stderr.isatty()
    # tqdm's monitor would be a thread for the rest of the process, which may become the service.
    tqdm.monitor_interval = 0
    with (
        logging_redirect_tqdm() if interactive else nullcontext(),
        tqdm(total=len(days), unit="day", disable=not interactive) as bar,
    ):
        yield Progress(bar)

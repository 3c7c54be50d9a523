"""Progress of commands that process days or months: a bar in a terminal, or else lines."""

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NoReturn, TextIO

import click
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from app.domain.downloads import date_ranges
from app.domain.months import Period
from app.ingest.runs import DayResult


@dataclass(frozen=True, slots=True)
class Progress:
    bar: "tqdm[NoReturn]"

    def write(self, line: object, file: TextIO | None = None) -> None:
        """Show a line, above the bar if there is one, on standard error by default."""
        self.bar.write(str(line), file=file or sys.stderr)

    def advance(self, line: object = None) -> None:
        """Count a day, month or file. Show the line only if there is no bar."""
        if line is not None and self.bar.disable:
            self.write(line)
        self.bar.update()


@contextmanager
def progress_of(unit: str, count: int) -> Iterator[Progress]:
    interactive = sys.stderr.isatty()
    # Disable tqdm's monitor, a thread that would run until the process ends, even in the service.
    tqdm.monitor_interval = 0
    with (
        logging_redirect_tqdm() if interactive else nullcontext(),
        tqdm(total=count, unit=unit, disable=not interactive) as bar,
    ):
        yield Progress(bar)


async def report_outcomes(
    outcomes: AsyncIterator[DayResult], periods: Sequence[Period], unit: str, done: str
) -> bool:
    """Show the outcome of each day or month, then a summary. Return True if none failed.

    `unit` is `day` or `month`, and `done` says what happened to those that did not fail.
    """
    last: dict[Period, DayResult] = {}
    try:
        with progress_of(unit, len(periods)) as progress:
            async for outcome in outcomes:
                if outcome.was_held:
                    progress.write(outcome)
                elif outcome.error:
                    progress.write(outcome)
                    progress.advance()
                else:
                    progress.advance(outcome)
                last[outcome.period] = outcome
    finally:
        tried = [last[one] for one in periods if one in last]
        failed = [outcome.period for outcome in tried if outcome.error]
        left = len(periods) - len(tried)
        click.echo(
            f"{len(tried) - len(failed)} of {len(periods)} {done}, {len(failed)} failed"
            + (f" ({date_ranges(failed)})" if failed else "")
            + (f", {left} not tried" if left else "")
        )
    return not failed

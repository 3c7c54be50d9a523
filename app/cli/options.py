"""Options that several commands share, and the types of their values."""

import os
import re
from collections.abc import Callable
from datetime import date
from functools import wraps
from pathlib import Path

import click

from app.domain.days import parse_day
from app.domain.months import Month, parse_month
from app.logs import configure_logging
from app.setting_types import is_path
from app.settings import load_settings

Command = Callable[..., None]

BUCKET_ADDRESS = re.compile(r"(s3|gs)://([^/?#]*@)?[^/?#@]+(/[^?#]*)?(\?[^#]*)?")
"""Pattern of bucket addresses. The parts before the `@` and after the `?` may be secret."""


class DayType(click.ParamType[date]):
    """A UTC day."""

    name = "YYYY-MM-DD"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return parse_day(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}.", param, ctx)


class MonthsType(click.ParamType[tuple[Month, Month]]):
    """One month, or a range of months with both ends included."""

    name = "YYYY-MM..YYYY-MM"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Month, Month]:
        first, dots, last = value.partition("..")
        try:
            span = parse_month(first), parse_month(last if dots else first)
        except ValueError:
            self.fail(f"{value!r} should be months such as 2018-01..2026-05.", param, ctx)
        if span[0] > span[1]:
            self.fail(f"{value!r} ends before it begins.", param, ctx)
        return span


class Destination(click.Path):
    """A folder, or the address of a bucket."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | Path:
        if isinstance(value, str) and ("://" in value or not is_path(value)):
            if not BUCKET_ADDRESS.fullmatch(value):
                # Do not repeat the address in the message, because it may contain a password.
                self.fail(
                    "should be a folder, s3://bucket/prefix or gs://bucket/prefix", param, ctx
                )
            return value
        return Path(os.fsdecode(super().convert(value, param, ctx)))


def with_settings(command: Command) -> Command:
    """Load the settings when the command runs, so that its help works without them."""

    @wraps(command)
    def run(**arguments: object) -> None:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        command(settings, **arguments)

    return run


def check_order(start: date | None, end: date | None) -> None:
    if start and end and start > end:
        raise click.BadParameter(f"{start} is after --end {end}.", param_hint="--start")


source_option = click.option(
    "--source",
    type=click.Choice(["bigquery", "file", "sample"]),
    help="Source of the downloads. Default: INGEST_SOURCE.",
)
replace_sample_option = click.option(
    "--replace-sample",
    is_flag=True,
    help="Delete the sample data in the database when the first real day is published.",
)

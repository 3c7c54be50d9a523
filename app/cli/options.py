"""Options that several commands share, and the types of their values."""

import os
from collections.abc import Callable
from datetime import date
from functools import wraps
from pathlib import Path

import click

from app.dumps.stores.bucket import ADDRESS
from app.logs import configure_logging
from app.settings import load_settings

Command = Callable[..., None]


class Day(click.ParamType[date]):
    """A UTC day."""

    name = "YYYY-MM-DD"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} should be a UTC day, YYYY-MM-DD.", param, ctx)


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
        if isinstance(value, str) and "://" in value:
            if not ADDRESS.fullmatch(value):
                # What is given may have a password in it.
                self.fail(
                    "should be a folder, s3://bucket/prefix or gs://bucket/prefix", param, ctx
                )
            return value
        return Path(os.fsdecode(super().convert(value, param, ctx)))


def with_settings(command: Command) -> Command:
    """Hand the settings to a command that runs; asking for its help needs none."""

    @wraps(command)
    def run(**arguments: object) -> None:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        command(settings, **arguments)

    return run


source_option = click.option(
    "--source",
    type=click.Choice(["bigquery", "file", "sample"]),
    help="Where the downloads come from. Default: INGEST_SOURCE.",
)
replace_sample_option = click.option(
    "--replace-sample",
    is_flag=True,
    help="Delete the sample data that the database holds in the moment real data is published.",
)

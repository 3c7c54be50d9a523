"""Python's minor versions and the ends of their lives."""

import tomllib
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class PythonSchedule(BaseModel):
    model_config = ConfigDict(frozen=True)

    as_of: date
    """The day on which the dates were last compared with their source."""

    source: str
    end_of_life: dict[str, date]
    """The day by minor version, in the order of the versions."""


PYTHON_SCHEDULE = PythonSchedule.model_validate(
    tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
)

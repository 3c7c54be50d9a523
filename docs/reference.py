"""Writes the generated sections of the documents in this folder, and `.env.example`: `make docs`.

A section is everything between `<!-- NAME: written by make docs -->` and `<!-- end of NAME -->`.
`--check` writes nothing, and ends with status 1 if a document is outdated.
"""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from app import metrics
from app.cli.program import PROGRAM, cli
from app.domain.breakdowns import BREAKDOWNS
from app.ingest.sources.bigquery import cost_usd
from app.main import create_app
from app.settings import Settings

FOLDER = Path(__file__).parent

ENV_EXAMPLE = FOLDER.parent / ".env.example"

ENV_EXAMPLE_HEAD = """\
# Settings of the service, with their defaults. Copy this file to `.env`, and remove the # in front
# of each setting that you change. `make docs` writes this file."""

USD_PER_MONTH_OF_A_BYTE = cost_usd(5_000_000_000 * 30)
"""Cost of a column with one byte per download."""

SERIES_ARGUMENTS = ("start_date", "end_date", "fill", "interval", "rolling", "format")


def _settings() -> Iterator[tuple[str, str, str]]:
    """Yield the name, default and meaning of each setting."""
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(default)
        elif isinstance(default, bool):
            default = str(default).lower()
        value = "" if default is None else str(default)
        yield name.upper(), value, " ".join((field.description or "").split())


def settings_table() -> str:
    rows = ((f"`{name}`", value and f"`{value}`", meaning) for name, value, meaning in _settings())
    return _table(("setting", "default", "meaning"), rows)


def env_example() -> str:
    """Return a `.env` file with each setting commented out, which therefore changes nothing."""
    paragraphs = [ENV_EXAMPLE_HEAD]
    for name, value, meaning in _settings():
        lines = textwrap.wrap(meaning, 98, break_long_words=False, break_on_hyphens=False)
        paragraphs.append("\n".join([*(f"# {line}" for line in lines), f"#{name}={value}"]))
    return "\n\n".join(paragraphs) + "\n"


def command_help() -> str:
    names: list[tuple[str, click.Command]] = [(PROGRAM, cli)]
    names += [(f"{PROGRAM} {name}", command) for name, command in cli.commands.items()]
    helps = []
    for name, command in names:
        context = click.Context(command, info_name=name, terminal_width=100, **cli.context_settings)
        helps.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(helps)


def metrics_table() -> str:
    families = []
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            families.append((family, metric._labelnames))  # noqa: SLF001 - no public name
    registry = CollectorRegistry()
    registry.register(metrics.PublicationMetrics(0, 0, 0, 0))
    families += [(family, ()) for family in registry.collect()]
    rows = (
        (
            f"`{family.name}{'_total' if family.type == 'counter' else ''}`",
            ", ".join(f"`{label}`" for label in labels),
            family.documentation,
        )
        for family, labels in families
    )
    return _table(("metric", "labels", "meaning"), rows)


def endpoints_table() -> str:
    document = create_app(Settings(_env_file=None), "postgresql:///unused").openapi()
    rows = []
    for path, operations in document["paths"].items():
        operation = operations["get"]
        names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
        is_series = set(SERIES_ARGUMENTS) <= set(names)
        hidden = SERIES_ARGUMENTS if is_series else ("format",)
        shown = [f"`{name}`" for name in names if name not in hidden]
        if is_series:
            shown.append("series arguments")
        rows.append((f"`{path}`", ", ".join(shown), operation["summary"]))
    return _table(("path", "arguments", "response"), rows)


def breakdowns_table() -> str:
    rows = (
        (
            f"`/api/packages/{{package}}/{one.name}`",
            f"`{one.argument}`, such as `{one.filter_example or one.examples[-1]}`",
            one.by,
            f"`{one.column}`",
            "yes" if one.is_optional else "",
            str(one.billed_bytes or ""),
            str(round(one.billed_bytes * USD_PER_MONTH_OF_A_BYTE) or ""),
        )
        for one in BREAKDOWNS
    )
    head = ("path", "argument", "by", "column", "optional", "bytes", "USD per month")
    return _table(head, rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


SECTIONS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "commands": command_help,
    "metrics": metrics_table,
    "endpoints": endpoints_table,
    "breakdowns": breakdowns_table,
}


def written(text: str) -> str:
    """Return a document with its generated sections up to date."""
    for name, write in SECTIONS.items():
        begin, end = f"<!-- {name}: written by make docs -->", f"<!-- end of {name} -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            after = rest.partition(end)[2]
            text = f"{before}{begin}\n\n{write()}\n\n{end}{after}"
    return text


def main() -> None:
    texts = {path: written(path.read_text()) for path in sorted(FOLDER.glob("*.md"))}
    texts[ENV_EXAMPLE] = env_example()
    outdated = [path for path, text in texts.items() if path.read_text() != text]
    for path in outdated:
        if "--check" in sys.argv:
            print(f"error: {path.name} is outdated: make docs writes it", file=sys.stderr)
        else:
            path.write_text(texts[path])
    sys.exit(bool(outdated) and "--check" in sys.argv)


if __name__ == "__main__":
    main()

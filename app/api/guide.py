"""Builds the guide, which is the first part of the documentation, and the documentation as text."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import limits

from app.api.limit_rules import ARGUMENTS_PER_REQUEST, in_words
from app.api.time_series import MAX_ITEMS
from app.domain.events import KnownEvents
from app.settings import Settings


def _text(name: str) -> str:
    return files("app.api").joinpath("static", name).read_text(encoding="utf-8")


def describe_service(settings: Settings, events: KnownEvents) -> str:
    """Return the guide, which includes the settings that concern clients."""
    limited = ""
    if settings.rate_limits:
        in_all = " and ".join(map(in_words, limits.parse_many(settings.rate_limits)))
        limited = _text("limits.md").format(limits=in_all, arguments=ARGUMENTS_PER_REQUEST)
    return _text("guide.md").format(
        bigquery_table=settings.bigquery_table,
        retention_days=settings.retention_days,
        mirror_installers=", ".join(f"`{name}`" for name in settings.mirror_installers) or "none",
        limits=limited,
        events="\n".join(
            f"* {event.date}{f' to {event.end_date}' if event.end_date else ''}: {event.summary}"
            for event in events.newest_first
        ),
        max_items=MAX_ITEMS,
    )


def plain_text(document: Mapping[str, Any], prefix: str = "") -> str:
    """Return an OpenAPI document as text: its description, then all endpoints by group. `prefix` is
    added to all paths.
    """
    info = document["info"]
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for path, operations in document["paths"].items():
        operation = operations["get"]
        groups[operation["tags"][0]] += _describe(document, path, operation)
    lines = [f"# {info['title']} {info['version']}\n", info["description"]]
    for group, described in groups.items():
        lines += [f"# Endpoints: {group}\n", *described]
    return re.sub("(?<=`)/|(?<=## GET )/", f"{prefix}/", "\n".join(lines))


def _describe(
    document: Mapping[str, Any], path: str, operation: Mapping[str, Any]
) -> Iterator[str]:
    yield f"## GET {path}\n"
    yield f"{operation['summary']}. {operation.get('description', '')}\n"
    target, query = path, []
    for parameter in operation.get("parameters", ()):
        name, schema = parameter["name"], _resolved(document, parameter["schema"])
        allowed = f" One of {', '.join(schema['enum'])}." if "enum" in schema else ""
        default = schema.get("default", parameter["schema"].get("default"))
        shown = f" Default: {default}." if default is not None else ""
        required = " (required)" if parameter["required"] else ""
        yield f"* `{name}`{required}: {parameter.get('description', '')}{allowed}{shown}"
        if parameter["required"]:
            values = parameter["example"]
            values = values if isinstance(values, list) else [values]
            target = target.replace(f"{{{name}}}", str(values[0]))
            if parameter["in"] == "query":
                query += [f"{name}={value}" for value in values]
    yield f"\nExample: `{target}{'?' if query else ''}{'&'.join(query)}`\n"
    content = operation["responses"]["200"].get("content", {}).get("application/json")
    schema = _resolved(document, content["schema"]) if content else {}
    for example in schema.get("examples", ())[:1]:
        yield f"```json\n{json.dumps(example, separators=(',', ':'))}\n```\n"


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema, or the one that it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    resolved: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return resolved

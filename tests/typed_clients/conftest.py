"""The document, and the operations that a generated client has called."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.domain.breakdowns import BREAKDOWNS
from tests.processes import ROOT
from tests.waiting import PATIENCE_SECONDS

DOCUMENT = ROOT / "openapi.json"
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    return dict(json.loads(DOCUMENT.read_text()))


def checked(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command and return what it prints. If it fails, the assertion shows this output."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}"
    return result.stdout


def with_breakdowns(program: str, comment: str, call: str, everything: str, member: str) -> str:
    """Replace the comment of a program by a call for each breakdown of the registry.

    `everything` is the argument that selects all categories of a breakdown which shows only some
    by default. `member` is the expression of an enumerated category in the program's language.
    """
    calls = []
    for breakdown in BREAKDOWNS:
        category = breakdown.filter_example or breakdown.examples[-1]
        names = {
            "name": breakdown.name,
            "tag": "details" if breakdown.is_optional else "packages",
            "title": breakdown.title,
            "argument": breakdown.argument,
            "category": category,
            "member": category.upper(),
        }
        is_enumerated = isinstance(breakdown.categories, tuple)
        names["value"] = (member if is_enumerated else '"{category}"').format(**names)
        names["everything"] = everything.format(**names) if breakdown.shown_categories else ""
        calls.append(call.format(**names))
    assert comment in program
    return program.replace(comment, "".join(calls))


def operations(document: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the method and the path of each operation, by its name."""
    return {
        operation["operationId"]: (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "responses" in operation
    }


def answered(document: dict[str, Any], printed: str) -> set[str]:
    """Return the names of the operations that succeeded, from lines like `GET /api/status 200`."""
    names = set()
    for line in printed.splitlines():
        method, path, status = line.split()
        if int(status) < 400:
            matching = {
                template: name
                for name, (its_method, template) in operations(document).items()
                if its_method == method
                and re.fullmatch(re.sub(r"\\\{.*?\\\}", "[^/]+", re.escape(template)), path)
            }
            # A path without parameters takes precedence over a template that matches it, too.
            names.add(matching[min(matching, key=lambda template: template.count("{"))])
    return names

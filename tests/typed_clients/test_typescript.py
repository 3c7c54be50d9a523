"""The TypeScript types that openapi-typescript makes of openapi.json, used with openapi-fetch."""

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.typed_clients.conftest import (
    DOCUMENT,
    HERE,
    answered,
    checked,
    operations,
    with_breakdowns,
)

GENERATE = "npx openapi-typescript openapi.json --output pypi-stats.d.ts"
COMPILE = "npx tsc --strict --target es2022 --module nodenext calls.ts"
INSTALL = "npm install --no-package-lock --no-audit --no-fund"

COMMENT = "  // The test inserts calls here, for each breakdown of the registry.\n"
CALL = """
  const {name} = given(
    await client.GET("/api/packages/{{package}}/{name}", {{
      params: {{ ...params{everything} }},
    }}),
  );
  assert.equal(sum({name}.data), recent.data.last_month);
  const {name}Part = given(
    await client.GET("/api/packages/{{package}}/{name}", {{
      params: {{ ...params, query: {{ {argument}: {value} }} }},
    }}),
  );
  assert.deepEqual({name}Part.data, {name}.data.filter((item) => item.category === "{category}"));
"""
MEMBER = '"{category}"'


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.fail(f"{program} is not installed: the tests of typed clients need Node and npm")
    # npm prints warnings about the machine's settings, and announces its own releases.
    return os.environ | {"NPM_CONFIG_LOGLEVEL": "error", "NPM_CONFIG_UPDATE_NOTIFIER": "false"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """Return a folder with the types, which were generated without warnings, and the program."""
    checked(shlex.split(INSTALL), HERE, environment)
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    for path in (DOCUMENT, HERE / "package.json"):
        (folder / path.name).write_text(path.read_text())
    program = with_breakdowns(
        (HERE / "calls.ts").read_text(), COMMENT, CALL, ', query: {{ {argument}: "all" }}', MEMBER
    )
    (folder / "calls.ts").write_text(program)
    told = checked(shlex.split(GENERATE), folder, environment).splitlines()
    assert [line[0] for line in told] == ["✨", "🚀"]
    return folder


@pytest.mark.parametrize(
    "command", ["redocly lint --extends=recommended", "spectral lint --ruleset ruleset.json"]
)
def test_linters_report_no_error(folder: Path, environment: dict[str, str], command: str) -> None:
    (folder / "ruleset.json").write_text('{"extends": "spectral:oas"}')
    checked(["npx", *shlex.split(command), "openapi.json"], folder, environment)


def test_patterns_match_their_examples(folder: Path, environment: dict[str, str]) -> None:
    """Validators such as ajv compile patterns with the flag `u`, which allows fewer escapes."""
    program = """
        const check = (part) => {
          if (typeof part?.pattern === "string") {
            for (const flag of ["", "u"]) {
              const pattern = new RegExp(part.pattern, flag);
              for (const example of part.examples ?? []) console.log(pattern.test(example));
            }
          }
          if (part instanceof Object) Object.values(part).forEach(check);
        };
        check(JSON.parse(require("fs").readFileSync("openapi.json")));
    """
    printed = checked(["node", "--eval", program], folder, environment).split()
    assert set(printed) == {"true"}


def test_types_hold_and_every_operation_answers(
    folder: Path, environment: dict[str, str], document: dict[str, Any], address: str
) -> None:
    assert checked(shlex.split(COMPILE), folder, environment) == ""
    printed = checked(["node", "calls.js", address], folder, environment)
    assert answered(document, printed) == set(operations(document))

"""The Go and Java clients that openapi-generator makes of openapi.json."""

import os
import shlex
import shutil
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from tests.processes import get
from tests.typed_clients.conftest import DOCUMENT, HERE, checked

GENERATE_GO = (
    "openapi-generator-cli generate --input-spec openapi.json --generator-name go --output go"
    " --git-user-id example --git-repo-id pypi-stats --additional-properties enumClassPrefix=true"
)
GENERATE_JAVA = (
    "openapi-generator-cli generate --input-spec openapi.json --generator-name java --output java"
    " --library native --additional-properties openApiNullable=false"
)

# The generator's own archive contains Jackson, which the client needs as well.
_JARS = (
    str(files("openapi_generator_cli").joinpath("openapi-generator.jar")),
    "/usr/share/java/geronimo-annotation-1.3-spec.jar",
    "classes",
)


@pytest.fixture
def environment() -> dict[str, str]:
    """Return the environment of generators and compilers, which download nothing."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The virtual machine runs too short to profit from its second compiler.
    options = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    return os.environ | {"PATH": path, "JDK_JAVA_OPTIONS": options, "GOPROXY": "off"}


def _expected(address: str) -> str:
    """Return what the programs print."""
    counts = get(f"{address}/api/packages/__all__/recent").json()["data"]
    assert counts["last_month"] > 2**31
    lines = [[counts[name] for name in ("last_day", "last_week", "last_month")]]
    series = get(f"{address}/api/packages/__all__/overall?mirrors=false&interval=week").json()
    lines += [[item["date"], item["category"], item["downloads"]] for item in series["data"]]
    dumps = get(f"{address}/api/dumps").json()["data"]
    assert dumps
    lines += [[dump[name] for name in ("day", "name", "bytes", "downloads")] for dump in dumps]
    lines += [[404, get(f"{address}/api/packages/no-such-package/recent").json()["detail"]]]
    return "".join(" ".join(map(str, line)) + "\n" for line in lines)


def test_go(address: str, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "openapi.json").write_text(DOCUMENT.read_text())
    checked(shlex.split(GENERATE_GO), tmp_path, environment)
    program = tmp_path / "go" / "calls"
    program.mkdir()
    shutil.copy(HERE / "calls.go", program)
    command = ["go", "run", "./calls", address]
    assert checked(command, tmp_path / "go", environment) == _expected(address)


def test_java(address: str, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "openapi.json").write_text(DOCUMENT.read_text())
    checked(shlex.split(GENERATE_JAVA), tmp_path, environment)
    sources = [*(tmp_path / "java" / "src" / "main").rglob("*.java"), HERE / "Calls.java"]
    path = ("-classpath", os.pathsep.join(_JARS))
    checked(["javac", "-d", "classes", *path, *map(str, sources)], tmp_path, environment)
    printed = checked(["java", *path, "Calls", address], tmp_path, environment)
    assert printed.endswith(_expected(address))

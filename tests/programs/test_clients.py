"""curl, promtool and LibreOffice with the service."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT, get

PATH = "/api/packages/requests/recent"


def _curl(*arguments: str | Path) -> str:
    options = ("--silent", "--show-error", "--write-out", "%{http_code}")
    return subprocess.check_output(["curl", *options, *arguments], text=True)


def test_curl_fetches_a_response_again_only_if_it_has_changed(service: str, tmp_path: Path) -> None:
    """`-R` gives the file the date of the response, which `-z` compares."""
    file, url = tmp_path / "recent.json", f"{service}{PATH}"
    download = ("--remote-time", "--output", file, "--time-cond", file, url)
    assert _curl("--remote-time", "--output", file, url) == "200"
    content = file.read_text()
    assert content == get(url).text
    assert _curl(*download) == "304"
    assert file.read_text() == content
    for date in ("2020-01-01", "2099-01-01"):
        # Only an equal date proves that the client has this response.
        assert _curl("--output", file, "--time-cond", date, url) == "200"


@pytest.mark.parametrize("path", [PATH, "/openapi.json", "/docs"])
def test_curl_compares_tags(service: str, tmp_path: Path, path: str) -> None:
    tag, file = tmp_path / "tag", tmp_path / "file"
    options = ("--compressed", "--output", file, "--etag-save", tag, "--etag-compare", tag)
    assert [_curl(*options, f"{service}{path}") for _ in range(3)] == ["200", "304", "304"]


def _promtool(*arguments: str, given: str = "") -> str:
    """Return what promtool prints. It exits with an error after a complaint."""
    result = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stderr


def test_promtool_has_no_complaints_about_the_metrics(service: str) -> None:
    for path in (PATH, "/nothing", f"{PATH}?period=year", "/docs"):
        get(f"{service}{path}")
    assert _promtool("check", "metrics", given=get(f"{service}/metrics").text) == ""


def test_promtool_accepts_the_example_alerts() -> None:
    assert _promtool("check", "rules", str(ROOT / "docs" / "prometheus-alerts.yml")) == ""


def test_libreoffice_keeps_versions_and_unknown_values(service: str, tmp_path: Path) -> None:
    document = (ROOT / "docs" / "data-tools.md").read_text()
    (command,) = re.findall(r"^soffice .*$", document, re.MULTILINE)
    content = get(f"{service}/api/packages/requests/python_minor?format=csv").text
    (tmp_path / "python_minor.csv").write_text(content)
    profile = f"-env:UserInstallation=file://{tmp_path}/profile"
    subprocess.run([*shlex.split(command), profile], cwd=tmp_path, check=True, capture_output=True)
    sheet = (tmp_path / "python_minor.fods").read_text()
    cells = re.findall(r'value-type="string"[^>]*>\s*<text:p>([^<]*)</text:p>', sheet)
    categories = [line.partition(",")[0] for line in content.splitlines()[1:]]
    assert {"3.10", "null"} <= set(categories)
    assert [cell for cell in cells if cell in set(categories)] == categories
    assert 'value-type="date"' in sheet

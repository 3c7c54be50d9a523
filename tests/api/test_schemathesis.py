"""Requests that a machine makes up from the OpenAPI document, and whether each answer is one that
the document promises.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from app.db.engine import create_engine
from app.dumps.export import export, published_days
from app.dumps.listing import DumpFormat
from app.dumps.stores.folder import DumpFolder
from tests.days import (
    RETENTION_DAYS,
    days_ago,
    downloads,
    optional_counts,
    publish,
    roll_up,
    store_days,
)
from tests.processes import served

MONTH = date(2026, 2, 1)

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> DumpFolder:
    return DumpFolder(tmp_path_factory.mktemp("dumps"))


@pytest.fixture(scope="module")
async def _days(module_database_url: str, dumps: DumpFolder) -> None:
    """Days with every category, and the packages that schemathesis.toml names."""
    engine = create_engine(module_database_url)
    minors = {"2.7": 1, "3.9": 20, "3.12": 300, "null": 4000}
    systems = {"windows": 4000, "linux": 300, "darwin": 19, "other": 1, "null": 1}
    for ago in (3, 1, 0):
        await publish(
            engine,
            days_ago(ago),
            downloads("requests", minors, systems, mirrors=50, **optional_counts(4321)),
            downloads("zope-interface", ago, mirrors=1, **optional_counts(ago)),
            downloads("mirrored-only", 0, mirrors=3, **optional_counts(0)),
        )
    published = await published_days(engine)
    with dumps.opened():
        exported = export(engine, dumps, published, DumpFormat.CSV)
        assert len([one async for one in exported]) == 3
    # A month that schemathesis.toml names.
    requests = downloads("requests", minors, systems, mirrors=0, **optional_counts(4321))
    await store_days(engine, {MONTH: [requests]})
    assert await roll_up(engine) == [MONTH]
    await engine.dispose()


@pytest.fixture(scope="module")
def address(
    _days: None,
    dumps: DumpFolder,
    module_database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    log = folder / "log"
    with served(
        folder / "unused",
        log,
        DATABASE_URL=module_database_url,
        DUMPS_DIR=str(dumps.path),
        RETENTION_DAYS=str(RETENTION_DAYS),
        LOG_LEVEL="error",
        INGEST_SOURCE="none",
    ) as (address, _):
        yield address
    assert log.read_text() == ""


def test_all_responses_match_the_document(address: str, dumps: DumpFolder, tmp_path: Path) -> None:
    """Schemathesis's own command runs all phases and counts its cases."""
    report_path = tmp_path / "report.json"
    configuration = tmp_path / CONFIGURATION.name
    dump = dumps.dumps().data[0].name
    configuration.write_text(CONFIGURATION.read_text().replace("DUMP", dump))
    result = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
            *("run", f"{address}/openapi.json", "--checks", "all", "--no-color"),
            *("--report-json-path", str(report_path)),
        ],
        # It leaves folders behind.
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    report: dict[str, Any] = json.loads(report_path.read_text())
    assert report["complete"]
    assert not any(report["warnings"].values())
    operations = report["operations"]
    assert operations["tested"] == operations["total"] > 0
    for operation, phases in report["valid_rates"].items():
        assert sum(phase["accepted"] for phase in phases.values()) > 0, operation
    # The last follows the links that it finds: from the list of dumps to its files, from packages
    # that are found to their figures.
    assert {
        name: phase["skip_reason"] for name, phase in report["phases"].items()
    } == dict.fromkeys(("examples", "coverage", "fuzzing", "stateful"))

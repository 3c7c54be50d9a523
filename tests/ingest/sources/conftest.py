"""Fixtures of the tests of sources."""

from pathlib import Path

import pytest

from app.dumps.stores.folder import DumpFolder


@pytest.fixture
def folder(tmp_path: Path) -> DumpFolder:
    return DumpFolder(tmp_path / "dumps")

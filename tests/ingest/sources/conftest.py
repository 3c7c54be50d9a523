"""Fixtures of the tests of sources."""

from pathlib import Path

import pytest

from app.dumps.stores.folder import DumpFolder
from tests.dumps.conftest import in_this_process

__all__ = ["folder", "in_this_process"]


@pytest.fixture
def folder(tmp_path: Path) -> DumpFolder:
    return DumpFolder(tmp_path / "dumps")

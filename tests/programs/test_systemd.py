"""The systemd unit of docs/operations.md, checked by systemd."""

import re
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT


def test_systemd_accepts_the_documented_unit(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    (text,) = re.findall(r"^```ini\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    unit = tmp_path / "pypi-stats.service"
    # systemd also checks that the program exists.
    unit.write_text(re.sub(r"(?<=ExecStart=)\S+", sys.executable, text))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")

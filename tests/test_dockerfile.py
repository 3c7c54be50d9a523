"""What can be checked of the image without building it: its paths, commands and context."""

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch

from tests.processes import ROOT, free_port

DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
FINAL = DOCKERFILE.rpartition("\nFROM ")[2]


def _instructions(name: str, text: str = DOCKERFILE) -> list[str]:
    return re.findall(rf"^{name} (.*)$", text, re.MULTILINE)


def _copied() -> list[str]:
    return [
        source
        for copy in _instructions("COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    ]


def test_every_copied_path_is_there_and_in_the_context() -> None:
    allowed = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert _copied()
    for path in _copied():
        source = path.removeprefix("./")
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in allowed), f"{source} is ignored"


def test_the_image_starts_the_service_as_nobody_special() -> None:
    assert json.loads(_instructions("CMD")[-1]) == ["python", "-m", "app", "serve"]
    assert _instructions("USER", FINAL) == ["app"]
    for tool in ("gcc", "apt-get", "build-essential", "[dev]", "[embedded]"):
        assert tool not in FINAL


def test_the_final_stage_has_what_the_service_reads() -> None:
    assert any(copy.endswith("./alembic") for copy in _instructions("COPY", FINAL))
    assert any(copy.startswith("alembic.ini") for copy in _instructions("COPY", FINAL))


def test_the_health_check_works(address: str) -> None:
    (check,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    _, *arguments = json.loads(check)

    def healthy(port: int) -> bool:
        environment = os.environ | {"PORT": str(port)}
        command = [sys.executable, *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, check=False)
        return result.returncode == 0

    assert not healthy(free_port())
    assert healthy(int(address.rpartition(":")[2]))

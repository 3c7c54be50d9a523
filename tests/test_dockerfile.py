"""Checks of the image that need no build: its paths, commands, context and requirements."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_every_copied_path_exists_and_is_in_the_context() -> None:
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


def test_the_image_runs_the_service_as_a_numeric_user() -> None:
    assert json.loads(_instructions("CMD")[-1]) == ["pypi-stats", "serve"]
    (user,) = _instructions("USER", FINAL)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    for tool in ("gcc", "apt-get", "build-essential", "[dev]", "[embedded]"):
        assert tool not in DOCKERFILE


def test_the_base_image_is_pinned_and_pip_is_removed() -> None:
    # Dependabot updates the image that a FROM names.
    pinned, *stages = _instructions("FROM")
    assert re.fullmatch(r"python:[\w.-]+@sha256:[0-9a-f]{64} AS base", pinned)
    assert [one.split()[0] for one in stages] == ["base", "base"]
    assert "pip uninstall --yes pip" in FINAL
    assert "--without-pip" in DOCKERFILE


def test_the_image_installs_with_hashes() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]+)", DOCKERFILE)
    files = [re.findall(r"--requirement (\S+)", install) for install in installs]
    assert files == [["requirements/build.txt"], ["requirements/image.txt"], []]
    assert all("--require-hashes" in install for install in installs[:2])
    # The wheel that was built a line before.
    assert installs[2].split() == ["--no-deps", "--no-index", "dist/*.whl"]


def _names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def test_requirements_of_the_image_are_complete_and_agree_with_the_constraints() -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {str(canonicalize_name(name)): version for name, _, version in _pins(constraints)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "image": project["project"]["dependencies"],
        "build": project["build-system"]["requires"],
    }
    for file, requirements in needed.items():
        text = (ROOT / "requirements" / f"{file}.txt").read_text().replace("\\\n", "")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert all("--hash=sha256:" in line for line in lines)
        locked = {name: version for name, _, version in _pins(lines)}
        assert locked == {name: pins[name] for name in locked}
        assert _names(requirements) <= set(locked)
        for name in locked:
            required = [Requirement(one) for one in requires(name) or ()]
            used = [str(one) for one in required if _is_needed(one)]
            assert _names(used) <= set(locked), name


def _pins(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    return (line.split()[0].partition("==") for line in lines)


def _is_needed(requirement: Requirement) -> bool:
    """Return True if the requirement, which needs no extra, applies to the image."""
    image = {"python_version": "3.13", "python_full_version": "3.13.0", "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate(image)


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

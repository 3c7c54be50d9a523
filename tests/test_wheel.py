"""The wheel, built and installed in an environment of its own, as the image does it."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from email import message_from_string
from pathlib import Path
from signal import SIGTERM
from zipfile import ZipFile

import pytest

from tests.processes import ROOT, get, served

SOURCES = ("app", "alembic", "alembic.ini", "pyproject.toml", "README.md", "LICENSE")


def _run(*command: str | Path, folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built without a download from a copy of the sources that the build needs."""
    folder = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".")
    _run(sys.executable, "-m", "pip", "wheel", *options, folder=folder)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with the wheel. Its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    binaries = folder / "bin"
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    # A folder that a .pth file adds is searched last, and the editable `app` in it is not found.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "install")
    _run(*pip, "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    return binaries


def test_the_wheel_contains_all_files_of_the_program(wheel: Path) -> None:
    files = [path for name in ("app", "alembic") for path in (ROOT / name).rglob("*.*")]
    sources = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    migrations = {name for name in sources if name.startswith("alembic/")} | {"alembic.ini"}
    expected = sources - migrations | {f"app/{name}" for name in migrations}
    with ZipFile(wheel) as archive:
        contained = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert contained == expected


def test_the_wheel_names_its_dependencies(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
    required = metadata.get_all("Requires-Dist") or []
    assert len([one for one in required if "extra ==" not in one]) == len(project["dependencies"])
    embedded = [one for one in required if "extra == 'embedded'" in one]
    assert len(embedded) == len(project["optional-dependencies"]["embedded"])


def test_the_installed_program_serves_in_an_empty_folder(
    binaries: Path, unmigrated_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    version = "import app; print(app.__file__)"
    imported = _run(binaries / "python", "-c", version, folder=folder).strip()
    assert imported.startswith(str(binaries.parent))
    environment = {"DATABASE_URL": unmigrated_url, "INGEST_SOURCE": "none", "WORKERS": "2"}
    log = tmp_path / "log"
    command = [str(binaries / "pypi-stats"), "serve"]
    with served(tmp_path, log, command, SIGTERM, folder, **environment) as (address, _):
        # Ready means that the database was migrated.
        assert get(f"{address}/ready").json() == {"status": "ready"}
        assert get(f"{address}/docs").status_code == 200
    assert list(folder.iterdir()) == []
    module = (binaries / "python", "-m", "app")
    assert _run(*module, "serve", "--help", folder=folder).startswith("Usage: pypi-stats serve")

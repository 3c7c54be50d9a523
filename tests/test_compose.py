"""docker-compose.yml and .env.example, against the settings."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from app.settings import Settings
from tests.processes import ROOT

COMPOSE = ROOT / "docker-compose.yml"
NAMES = {name.upper() for name in Settings.model_fields}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name)


@pytest.fixture
def services() -> dict[str, Any]:
    document = yaml.safe_load(COMPOSE.read_text())
    services: dict[str, Any] = document["services"]
    used = [volume for one in services.values() for volume in one.get("volumes", ())]
    assert {volume.partition(":")[0] for volume in used} == set(document["volumes"])
    return services


def test_every_variable_of_the_service_is_a_setting(services: dict[str, Any]) -> None:
    environment = services["service"]["environment"]
    assert set(environment) <= NAMES
    assert set(re.findall(r"\$\{?(\w+)", COMPOSE.read_text())) <= NAMES
    # `${NAME:-default}` without the variable.
    values = {
        name.lower(): re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)
        for name, value in environment.items()
    }
    settings = Settings.model_validate(values)
    addresses = (settings.database_url, settings.rate_limit_storage_uri)
    hosts = {urlsplit(one.get_secret_value()).hostname for one in addresses if one}
    assert hosts == set(services["service"]["depends_on"]) == set(services) - {"service"}
    (port,) = services["service"]["ports"]
    assert port.endswith(f":{settings.port}")


def test_the_database_is_the_one_that_compose_creates(services: dict[str, Any]) -> None:
    created = services["postgres"]["environment"]
    url = urlsplit(services["service"]["environment"]["DATABASE_URL"])
    assert (url.username, url.password, url.path[1:]) == (
        created["POSTGRES_USER"],
        created["POSTGRES_PASSWORD"],
        created["POSTGRES_DB"],
    )
    # Nothing outside of the network of the services reaches Postgres with this password.
    assert all("ports" not in one for name, one in services.items() if name != "service")


def test_the_example_lists_every_setting_and_changes_none(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    assert re.findall(r"^#(\w+)=", text, re.MULTILINE) == [
        name.upper() for name in Settings.model_fields
    ]
    assert all(line.startswith("#") for line in text.splitlines() if line)
    uncommented = tmp_path / ".env"
    uncommented.write_text(re.sub(r"^#(\w+=)", r"\1", text, flags=re.MULTILINE))
    assert Settings(_env_file=uncommented) == Settings(_env_file=None)

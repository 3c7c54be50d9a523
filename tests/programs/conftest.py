"""A service for real proxies, caches and clients."""

import os
from collections.abc import AsyncIterator

import pytest

from tests.processes import get, served
from tests.waiting import wait_until


@pytest.fixture(scope="session", autouse=True)
def _path_of_programs() -> None:
    """Debian installs servers where only root looks for programs."""
    os.environ["PATH"] += ":/usr/sbin"


@pytest.fixture(scope="module")
async def service(
    _session_sample_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The address of a service with two workers, rate limits, and a trusted proxy."""
    folder = tmp_path_factory.mktemp("service")
    environment = {
        "DATABASE_URL": _session_sample_url,
        "RATE_LIMITS": "10000/hour",
        "TRUSTED_PROXIES": "127.0.0.1",
        "WORKERS": "2",
    }
    with served(folder, folder / "log", **environment) as (address, _):
        # Last-Modified is left out until it is past.
        path = "/api/packages/requests/recent"
        wait_until(lambda: "last-modified" in get(address + path).headers)
        yield address

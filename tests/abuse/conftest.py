from collections.abc import Iterator

import httpx
import pytest

from tests.abuse.service import PROXY, UNLIMITED_CLIENT, AttackedService
from tests.processes import SERVE, latest_complete_day, run, served


@pytest.fixture(scope="session")
def sample_data(_session_sample_url: str) -> str:
    """Address of a database that no attack changes."""
    return _session_sample_url


@pytest.fixture(scope="session")
def service(
    sample_data: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AttackedService]:
    """A service with two workers, a dump, and the default limits."""
    folder = tmp_path_factory.mktemp("attacked")
    log = folder / "log"
    environment = {
        "DATABASE_URL": sample_data,
        "WORKERS": "2",
        "RATE_LIMITS": "10/second;300/minute",
        "CLIENT_RATE_LIMITS": f"{UNLIMITED_CLIENT}=none,key:{'0' * 64}=none",
        "TRUSTED_PROXIES": PROXY,
        # A full cache is normal, and would look like growth.
        "RESPONSE_CACHE_MAX_BYTES": "8000000",
    }
    day = latest_complete_day().isoformat()
    exported = run("export", "--date", day, "--to", str(folder / "dumps"), DATABASE_URL=sample_data)
    assert exported.returncode == 0, exported.stderr
    with served(folder, log, SERVE, **environment) as (address, process):
        for number in range(20):
            # The memory of a service that has just started is less than normal.
            with httpx.Client(base_url=address, timeout=60) as client:
                for package in ("requests", "numpy", "pandas", "flask", "django"):
                    client.get(
                        f"/api/packages/{package}/python_minor",
                        headers={"X-Forwarded-For": f"192.0.2.{number}"},
                    ).raise_for_status()
        yield AttackedService.at(address, process, log)

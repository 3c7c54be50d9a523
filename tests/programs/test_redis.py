"""Services that share their rate limits through the real Redis."""

import subprocess
from pathlib import Path

from tests.processes import free_port, get, served, wait_for


def test_services_share_a_budget(sample_url: str, tmp_path: Path) -> None:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    environment = {
        "DATABASE_URL": sample_url,
        "RATE_LIMITS": "4/hour",
        "RATE_LIMIT_STORAGE_URI": f"redis://127.0.0.1:{port}/0",
    }
    with (
        (tmp_path / "redis").open("w") as log,
        subprocess.Popen(command, stdout=log, cwd=tmp_path) as redis,
    ):
        try:
            wait_for(port, redis)
            with (
                served(tmp_path, tmp_path / "one", **environment) as (one, _),
                served(tmp_path, tmp_path / "other", **environment) as (other, _),
            ):
                counted = [
                    get(f"{address}/api/nothing") for address in (one, other, one, other, one)
                ]
        finally:
            redis.terminate()
    assert [answer.headers["x-ratelimit-remaining"] for answer in counted] == list("32100")
    assert [answer.status_code for answer in counted] == [404, 404, 404, 404, 429]

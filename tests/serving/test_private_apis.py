"""Private APIs of libraries that the server and the ingest depend on.

If a test fails after an upgrade, read what has changed in the class, adapt `app.serving.server` and
`app.serving.protocol`, or `app.ingest.sources.bigquery_client`, and raise the upper bound in
`pyproject.toml` with the digest here.
"""

import inspect
from hashlib import sha256

import pytest
import uvicorn
from google.cloud.client import Client as GoogleClient
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.supervisors.multiprocess import Multiprocess, Process


@pytest.mark.parametrize(
    ("used", "digest"),
    [
        (HttpToolsProtocol, "18fdf324b11bf160"),
        (RequestResponseCycle, "e67d470d435dcc1c"),
        (uvicorn.Server, "06e799f7c58f8be6"),
        (Multiprocess, "ea4650ac0ee7c09c"),
        (Process, "c3105a4518e3195a"),
        # Its attribute `_http` is the session that parses responses.
        (GoogleClient, "64c89b36b39d2ec2"),
    ],
)
def test_private_apis_are_unchanged(used: type, digest: str) -> None:
    assert sha256(inspect.getsource(used).encode()).hexdigest()[:16] == digest

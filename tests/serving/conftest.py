from tests.api.conftest import _no_ingest_job, known_days, queries, two_days

__all__ = ["_no_ingest_job", "known_days", "queries", "two_days"]

"""Settings: each is documented, and a bad value is told in one line."""

import os
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from app.domain.breakdowns import CI, INSTALLER, OPTIONAL_BREAKDOWNS, VERSION, Breakdown
from app.errors import SettingsError
from app.settings import IngestSource, Settings, load_settings

SERVICE_ACCOUNT = '{"type": "service_account"}'


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("DATABASE_URL", "mysql://user:secret@host/db", "postgresql://user:password@host:5432/"),
        ("DATABASE_URL", "secret", "postgresql://"),
        ("DATABASE_URL", "postgresql://user:secret@host:port/db", "postgresql://"),
        ("DATABASE_URL", "postgresql://user:secret@host:99999/db", "postgresql://"),
        ("DATABASE_URL", "postgresql://u:secret@h/d?sslmode=bogus", "verify-full"),
        ("DATABASE_URL", "postgresql://u:secret@h/d?keepalives=1", "'keepalives'"),
        ("PORT", "0", "greater than or equal to 1"),
        ("PORT", "http", "valid integer"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("RETENTION_DAYS", "7", "greater than or equal to 30"),
        ("INGEST_SCHEDULE", "at one", "five cron fields"),
        ("INGEST_SCHEDULE", "99 * * * *", "0 to 59 in the field of the minute, not '99'"),
        ("INGEST_SCHEDULE", "0 0 31 2 *", "no month that it names has such a day"),
        ("INGEST_SOURCE", "csv", "'auto', 'bigquery', 'sample', 'file' or 'none'"),
        ("INGEST_BREAKDOWNS", "installer,os", "installer, ci, country, version"),
        ("INGEST_BREAKDOWNS", "none,ci", "installer, ci, country, version"),
        ("INGEST_BREAKDOWNS", ",", "installer, ci, country, version"),
        ("INGEST_FILES", "http://secret.example/api/dumps", "https://"),
        ("INGEST_FILES", "http://127.0.0.1.secret.example/", "https://"),
        ("INGEST_FILES", "gs://secret/dumps", "https://"),
        ("INGEST_FILES", "https://", "https://"),
        ("INGEST_FILES", "https://host:port/secret", "https://"),
        ("INGEST_FILES", "/srv/secret/{day}.txt", "one of .parquet, .csv, .csv.gz, .ndjson, "),
        ("INGEST_FILES", "https://host/{day}?token=secret.csv", "one of .parquet"),
        ("DUMPS_DIR", "s3://bucket/dumps", "`export --to` writes to buckets"),
        (
            "INGEST_FILES",
            "https://host/{date}.parquet",
            "no other placeholder in braces than {day}",
        ),
        ("INGEST_FILES", "/srv/{day}/{secret}.csv", "no other placeholder in braces than {day}"),
        (
            "INGEST_FILES",
            "https://host/secret.parquet",
            "should contain {day} when it names a file",
        ),
        ("INGEST_FILES", "/srv/secret.csv.gz", "should contain {day} when it names a file"),
        ("DUMPS_URL", "bucket.example/dumps/", "https://bucket.example/dumps/"),
        ("DUMPS_URL", "https://bucket.example/dumps", "with the last /"),
        ("DUMPS_URL", "javascript://bucket/", "https://bucket.example/dumps/"),
        ("GOOGLE_SERVICE_ACCOUNT_JSON", '{"private_key": "secret"}', "service account's key"),
        ("GOOGLE_SERVICE_ACCOUNT_JSON", "secret", "service account's key"),
        ("BIGQUERY_TABLE", "file_downloads", "project.dataset.table"),
        ("BIGQUERY_TABLE", "a.b.c` WHERE true --", "project.dataset.table"),
        ("BIGQUERY_MAX_BYTES_BILLED", "1TB", "valid integer"),
        ("BIGQUERY_EMULATOR_HOST", "localhost:9050", "http://127.0.0.1:9050"),
        ("RATE_LIMITS", "lots", "10/second;300/minute"),
        ("RATE_LIMITS", "0/second", "10/second;300/minute"),
        ("TRUSTED_PROXIES", "10.0.0.1, proxy.local", "192.168.0.0/16"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "192.168.0.0/16"),
        ("TRUSTED_PROXIES", "*", "192.168.0.0/16"),
        ("RATE_LIMIT_STORAGE_URI", "memcached://secret", "redis://:password@host:6379/0"),
        ("RATE_LIMIT_STORAGE_URI", "secret:6379", "redis://:password@host:6379/0"),
        ("RATE_LIMIT_STORAGE_URI", "redis://:secret@host:port", "redis://:password@host:6379/0"),
        ("RATE_LIMIT_STORAGE_URI", "redis://", "redis://:password@host:6379/0"),
        ("RATE_LIMIT_STORAGE_URI", "redis://host/secret", "redis://:password@host:6379/0"),
        ("RATE_LIMIT_STORAGE_URI", "redis://host/0?x=secret", "redis://:password@host:6379/0"),
        ("RATE_LIMIT_STORAGE_URI", "redis+unix://", "redis://:password@host:6379/0"),
        ("RESPONSE_CACHE_MAX_BYTES", "-1", "greater than or equal to 0"),
        ("RESPONSE_CACHE_MAX_BYTES", "64MB", "valid integer"),
        ("REQUEST_TIMEOUT_SECONDS", "0", "greater than 0"),
        ("REQUEST_LOG", "maybe", "valid boolean"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'console' or 'json'"),
    ],
)
def test_a_bad_value_is_named_with_what_is_right(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, right: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(name)
    assert right in message
    assert "secret" not in message
    assert "\n" not in message


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match=r"PORT=0: .*; LOG_LEVEL=loud: "):
        load_settings()


def test_empty_means_left_out_except_for_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
    settings = load_settings()
    assert settings == Settings(rate_limits="")
    assert settings.database_url is None


@pytest.mark.parametrize(
    ("value", "from_bigquery", "from_sample"),
    [
        ("", (INSTALLER,), OPTIONAL_BREAKDOWNS),
        ("none", (), ()),
        ("version, CI,ci", (CI, VERSION), (CI, VERSION)),
    ],
)
def test_which_breakdowns_are_ingested(
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    from_bigquery: tuple[Breakdown, ...],
    from_sample: tuple[Breakdown, ...],
) -> None:
    monkeypatch.setenv("INGEST_BREAKDOWNS", value)
    settings = load_settings()
    assert settings.breakdowns_of(IngestSource.BIGQUERY) == from_bigquery
    assert settings.breakdowns_of(IngestSource.SAMPLE) == from_sample


def test_values_are_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(
        "PORT=9000\nMIRROR_INSTALLERS=devpi, nexus\nGOOGLE_APPLICATION_CREDENTIALS=key.json\n"
    )
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    for name in ("PORT", "MIRROR_INSTALLERS", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("WORKERS", "2")
    settings = load_settings()
    assert (settings.port, settings.workers) == (9000, 2)
    assert settings.mirror_installers == ("devpi", "nexus")
    # Google's library reads the environment alone.
    assert os.environ["GOOGLE_APPLICATION_CREDENTIALS"] == "key.json"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "key.json"),
        ("GOOGLE_SERVICE_ACCOUNT_JSON", SERVICE_ACCOUNT),
        ("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9050"),
    ],
)
def test_credentials_decide_the_source(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert load_settings().source is IngestSource.SAMPLE
    monkeypatch.setenv(name, value)
    assert load_settings().source is IngestSource.BIGQUERY
    monkeypatch.setenv("INGEST_SOURCE", "sample")
    assert load_settings().source is IngestSource.SAMPLE


def test_files_are_the_source_where_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for location in (
        "dumps",
        "/srv/{day}.ndjson.gz",
        "https://host/api/dumps",
        "https://user:password@host/{day}.parquet?token=x",
        "http://127.0.0.1:8000/api/dumps",
        "http://[::1]:8000/dumps/",
        "http://localhost/{day}.csv",
    ):
        monkeypatch.setenv("INGEST_FILES", location)
        assert load_settings().source is IngestSource.FILE
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9050")
    assert load_settings().source is IngestSource.BIGQUERY


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_default_and_a_help(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.default is not PydanticUndefined
    assert field.description

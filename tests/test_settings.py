"""Settings: each is documented, and an invalid value is reported in one line that names it."""

import os
import re
import traceback
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import requests
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from app.domain.breakdowns import CI, INSTALLER, OPTIONAL_BREAKDOWNS, VERSION, Breakdown
from app.domain.events import CountedFiles
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
        ("DATABASE_URL", "postgresql://u:secret@h/d?target=1", "target_session_attrs"),
        ("DATABASE_URL", "postgresql://u:secret@h/d?target_session_attrs=x", "prefer-standby"),
        ("DATABASE_URL", "postgresql://u:secret@h/d?connect_timeout=x", "whole seconds"),
        ("DATABASE_URL", "postgresql://u:secret@h,i/d?port=1,2,3", "host1:5432,host2:5433"),
        ("DATABASE_URL", "postgresql://u:secret@[::1/d", "postgresql://"),
        ("DATABASE_URL", "postgresql://u:secret", "postgresql://"),
        ("DATABASE_URL", "postgresql://h/d?sslkey=/secret", "file that can be read as its sslkey"),
        ("DATABASE_URL", f"postgresql://h/d?sslrootcert={__file__}", "PEM files"),
        ("DATABASE_URL", f"postgresql://h/d?sslcert={__file__}", "PEM files"),
        ("PORT", "0", "greater than or equal to 1"),
        ("PORT", "http", "valid integer"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("RETENTION_DAYS", "7", "greater than or equal to 30"),
        ("INGEST_SCHEDULE", "at one", "five cron fields"),
        ("INGEST_SCHEDULE", "99 * * * *", "0 to 59 in the field of the minute"),
        ("INGEST_SCHEDULE", "0 0 31 2 *", "none of its months has the given day"),
        ("INGEST_SOURCE", "csv", "'auto', 'bigquery', 'sample', 'file' or 'none'"),
        ("INGEST_BREAKDOWNS", "installer,os", "installer, ci, country, version"),
        ("INGEST_BREAKDOWNS", "none,ci", "installer, ci, country, version"),
        ("INGEST_BREAKDOWNS", ",", "installer, ci, country, version"),
        ("INGEST_PACKAGES", ",", "should name 1 to 200 packages, but it names 0"),
        (
            "INGEST_PACKAGES",
            "flask,zope interface, -x,__all__",
            "'zope interface', '-x', '__all__'",
        ),
        ("INGEST_PACKAGES", "@/secret/names.txt", "No such file or directory"),
        ("INGEST_PACKAGES", "requests.txt", "should have an @ before the path of a file"),
        ("INGEST_PACKAGES", __file__, "should have an @ before the path of a file"),
        ("INGEST_PACKAGES", "@", "should name a file that can be read after the @"),
        ("INGEST_PACKAGES", ",".join(f"p{n}" for n in range(1_001)), "but it names 1,001"),
        ("INGEST_FILES", "http://secret.example/api/dumps", "https://"),
        ("INGEST_FILES", "http://127.0.0.1.secret.example/", "https://"),
        ("INGEST_FILES", "gs://secret/dumps", "https://"),
        ("INGEST_FILES", "https://", "https://"),
        ("INGEST_FILES", "https://host:port/secret", "https://"),
        ("INGEST_FILES", "/srv/secret/{day}.txt", "one of .parquet, .csv, .csv.gz, .ndjson, "),
        ("INGEST_FILES", "https://host/{day}?token=secret.csv", "one of .parquet"),
        ("DUMPS_DIR", "s3://bucket/dumps", "`export --to` writes to buckets"),
        ("INGEST_FILES", "https://host/{date}.parquet", "no other placeholder in braces than"),
        ("INGEST_FILES", "/srv/{day}/{secret}.csv", "no other placeholder in braces than {day}"),
        ("INGEST_FILES", "https://host/secret.parquet", "{day} when it names a file"),
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
        ("BIGQUERY_EMULATOR_HOST", "http://bigquery.example:9050", "https:// for another machine"),
        ("GOOGLE_APPLICATION_CREDENTIALS", SERVICE_ACCOUNT, "GOOGLE_SERVICE_ACCOUNT_JSON"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/secret/key.json", "No such file or directory"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "s" * 5000, "File name too long"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/", "Is a directory"),
        ("HOST", "x86_64-conda-linux-gnu", "conda and some shells set HOST"),
        ("HOST", "aarch64-apple-darwin20.0.0", "conda and some shells set HOST"),
        ("HOST", "http://127.0.0.1", "127.0.0.1, 0.0.0.0 or ::"),
        ("RATE_LIMITS", "lots", "10/second;300/minute"),
        ("RATE_LIMITS", "0/second", "10/second;300/minute"),
        ("TRUSTED_PROXIES", "10.0.0.1, proxy.local", "192.168.0.0/16"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "should have 10.0.0.0/8 for that network"),
        ("TRUSTED_PROXIES", "fd00::1/8", "fd00::/8 for that network, or fd00::1 for one address"),
        ("TRUSTED_PROXIES", "*", "192.168.0.0/16"),
        ("TRUSTED_PROXIES", "::ffff:10.0.0.1", "should have the IPv4 form, such as 10.0.0.1"),
        ("CLIENT_RATE_LIMITS", "10.0.0.1/8=none", "should have 10.0.0.0/8 for that network"),
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
def test_the_error_of_an_invalid_value_describes_valid_ones(
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


def test_all_invalid_values_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match=r"PORT: .*; LOG_LEVEL: "):
        load_settings()


def test_an_empty_setting_counts_as_omitted_except_for_the_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", None),
        ("requests", ("requests",)),
        (" Zope.Interface, flask ,zope_interface,,FLASK", ("flask", "zope-interface")),
    ],
)
def test_followed_packages(
    monkeypatch: pytest.MonkeyPatch, value: str, names: tuple[str, ...] | None
) -> None:
    monkeypatch.setenv("INGEST_PACKAGES", value)
    assert load_settings().ingest_packages == names


def test_followed_packages_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    monkeypatch.setenv("INGEST_PACKAGES", f"@{file}")
    file.write_text("\ufeff# ours\r\nZope.Interface\r\n\r\nflask  # web\n", encoding="utf-8")
    assert load_settings().ingest_packages == ("flask", "zope-interface")
    for content, message in (
        (b"", "names 0"),
        (b"# nothing\n", "names 0"),
        (b"flask\nno name\n", "'no name' is not"),
        (b"flask\n\n# ours\nrequests==2.0\n", "which line 4 is not"),
        (b"\xff\xfe", "it is not a text in UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            load_settings()


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a `.env` file, and an environment in which it has an effect."""
    path = tmp_path / ".env"
    monkeypatch.setitem(Settings.model_config, "env_file", path)
    for name in ("PORT", "MIRROR_INSTALLERS", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_values_are_read_from_a_file(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    env_file.write_text(
        "PORT=9000\r\n\r\nCOMPOSE_PROJECT_NAME=stats\r\n# Ours\r\n"
        "export mirror_installers=devpi, nexus\r\nWORKERS=\r\n"
        f"GOOGLE_APPLICATION_CREDENTIALS={__file__}\r\n",
        encoding=encoding,
    )
    monkeypatch.setenv("WORKERS", "2")
    settings = load_settings()
    assert (settings.port, settings.workers) == (9000, 2)
    assert settings.mirror_installers == ("devpi", "nexus")
    # Google's library reads the environment alone.
    assert os.environ["GOOGLE_APPLICATION_CREDENTIALS"] == __file__


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("PORT=9000\nWORKRES=2\n", ", line 2, sets nothing: did you mean WORKERS?"),
        ("DATABSE_URL=secret\n", ", line 1, sets nothing: did you mean DATABASE_URL?"),
        ("\nSECRET=1\n", ", line 2, sets nothing: it names no setting"),
        ("GOOGLE_SERVICE_ACCOUNT_JSON={\n'secret': 1\n}\n", ", line 2, sets nothing: it names no"),
        ("PORT\n", ", line 1, sets nothing: it should look like PORT=value"),
        ("PORT: 9000\n", ", line 1, sets nothing: "),
        ("PORT='9000\n", ", line 1, sets nothing: "),
        ("PORT=9000\nDATA_DIR=sécret\n".encode("latin-1"), "it is not encoded in UTF-8"),
        ("PORT=9000\n".encode("utf-16"), "it is not encoded in UTF-8"),
        (None, "Is a directory"),
        (Path("/missing"), "No such file or directory"),
    ],
)
def test_a_file_that_sets_nothing_is_refused(
    env_file: Path, content: str | bytes | Path | None, reason: str
) -> None:
    if content is None:
        env_file.mkdir()
    elif isinstance(content, Path):
        env_file.symlink_to(content)
    else:
        env_file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(str(env_file))
    assert reason in message
    assert "ecret" not in message.replace(str(env_file), "").lower()
    assert "\n" not in message


@pytest.mark.parametrize("value", ["{}", " {} ", "{}\n"])
def test_choices_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name, choice in {
        "INGEST_SOURCE": "FILE",
        "INGEST_COUNTED_FILES": "Artifacts",
        "INGEST_BREAKDOWNS": "NONE",
        "LOG_LEVEL": "Warning",
        "LOG_FORMAT": "JSON",
        "REQUEST_LOG": "FALSE",
    }.items():
        monkeypatch.setenv(name, value.format(choice))
    settings = load_settings()
    assert settings.ingest_source is IngestSource.FILE
    assert settings.ingest_counted_files is CountedFiles.ARTIFACTS
    assert (settings.ingest_breakdowns, settings.request_log) == ((), False)
    assert (settings.log_level, settings.log_format) == ("warning", "json")


SECRETS = (
    "hunter2",
    " hunter2\n",
    '{"type": "service_account", "private_key": "hunter2"}',
    "https://user:hunter2@host/path",
    "https:/user:hunter2@host/path",
    "https:user:hunter2@host/path",
    "https://user:1/hunter2@host/path",
    "https://user:1?hunter2@host/path",
    "https://user:1#hunter2@host/path",
    "https://user:pass@hunter2@host/path",
    "https://user:1%hunter2@host/path",
    "https://hunter2@host/path",
    "https://host/path/?signature=hunter2",
    "https://host/path/#hunter2",
    "host/path/?signature=hunter2",
    "http://127.0.0.1:9050/?key=hunter2",
    "s3://key:hunter2@bucket/path",
    "s3:/key:hunter2@bucket/path",
    "postgres://user:hunter2@host/database",
    "postgres://user:1/hunter2@host/database",
    "postgres://user:pass@hunter2@host/database",
    "postgres://user@host/database?password=hunter2&option=hunter2",
    "postgres://user:12?hunter2=1",
    "postgres://host/database?sslkey=/hunter2&sslpassword=hunter2",
    "redis://:hunter2@host/0",
    "redis://:pass@hunter2@host/0",
    "redis://:1/hunter2@host/0",
    "redis://host/0?password=hunter2",
    "10.0.0.1,user:hunter2@host",
    "0 1 * * hunter2",
    "10/second;hunter2",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_repeated(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """Every setting refuses the value without repeating it, or accepts it and hides it."""
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), secret)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert "hunter2" not in str(caught.value)
    for name in Settings.model_fields.keys() - {error["loc"][0] for error in caught.value.errors()}:
        is_hidden = "SecretStr" in str(Settings.__annotations__[name])
        # Paths and names are shown. They contain none of the characters before a secret.
        assert is_hidden or not re.search("[:@?{]", secret), name


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("user", ["u:hunter2/x", "u:1#hunter2", "u:1@hunter2", "u:%hunter2"])
def test_no_secret_of_a_proxy_is_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, user: str
) -> None:
    for address in (f"http://{user}@127.0.0.1:9", f"{user}@127.0.0.1:9", "http://host:hunter2"):
        monkeypatch.setenv(name, address)
        with pytest.raises(SettingsError, match=f"{name.upper()}: should look like") as caught:
            load_settings()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv(name, "http://user:%23hunter2@127.0.0.1:9")
    load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", __file__),
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


def test_files_are_the_source_if_no_credentials_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("given", ["", "example.com", "*"])
def test_no_proxy_is_used_for_loopback(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", given)
    monkeypatch.setenv("no_proxy", "")
    load_settings()
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/missing"
        statuses = [httpx.get(url).status_code, requests.get(url, timeout=60).status_code]
        server.shutdown()
        thread.join()
    assert statuses == [404, 404]


def test_a_pipe_is_no_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it would wait for a writer."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(pipe))
    with pytest.raises(SettingsError, match="It is a pipe"):
        load_settings()

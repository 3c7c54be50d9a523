"""Every setting: its name, type, default and help.

A setting is an environment variable, or a line of a `.env` file, with the field's name in capitals.
Only `app.cli`, `app.main` and `alembic/env.py` call `load_settings`; everything else is handed what
it needs.
"""

import json
import os
import re
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

import limits
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.domain.breakdowns import INSTALLER, OPTIONAL_BREAKDOWNS, Breakdown
from app.domain.events import CountedFiles, Event, read_events
from app.domain.schedule import Schedule
from app.errors import SettingsError

SERVED_DAYS = 180
"""How far back the public service's time series reach."""


DATABASE_ARGUMENTS = {"host", "sslmode", "ssl", "target_session_attrs"}
"""What may follow the `?` of `DATABASE_URL`, and has its effect."""

LIBPQ_ONLY_ARGUMENTS = {"application_name", "channel_binding", "connect_timeout"}
"""What may too, since hosts hand it out for other drivers, and has none."""

UNIX_REDIS_SCHEME = "redis+unix"
REDIS_SCHEMES = ("redis", "rediss", UNIX_REDIS_SCHEME)

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


DAY_FIELD = "{day}"

FILE_SUFFIXES = (".parquet", ".csv", ".csv.gz", ".ndjson", ".ndjson.gz")
"""What the names of files that can be read end with."""


class IngestSource(StrEnum):
    AUTO = "auto"
    BIGQUERY = "bigquery"
    SAMPLE = "sample"
    FILE = "file"
    NONE = "none"


def _postgres_url(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return None
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    # The driver is ours to choose, so `postgres://` (as many hosts hand it out) is as good.
    if (
        url is None
        or url.drivername.partition("+")[0] not in ("postgres", "postgresql")
        or not 0 < (url.port or 5432) <= 65535
    ):
        raise ValueError("should look like postgresql://user:password@host:5432/database")
    unknown = url.query.keys() - DATABASE_ARGUMENTS - LIBPQ_ONLY_ARGUMENTS
    if unknown:
        raise ValueError(
            f"has the unknown argument {min(unknown)!r}: known are {sorted(DATABASE_ARGUMENTS)}"
        )
    if url.query.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"should have an sslmode that is one of {', '.join(SSL_MODES)}")
    return value


def _schedule(value: object) -> object:
    return Schedule(value) if isinstance(value, str) else value


def _bigquery_table(value: str) -> str:
    parts = value.split(".")
    if len(parts) != 3 or not all(parts) or "`" in value:
        raise ValueError("should look like project.dataset.table")
    return value


def _http_address(value: str | None) -> str | None:
    if value is not None and not value.startswith(("http://", "https://")):
        raise ValueError("should look like http://127.0.0.1:9050")
    return value


def is_secure(address: str) -> bool:
    """Whether nobody on the way can change what comes from an address: it has TLS, or does not
    leave the machine.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme != "http":
        return parts.scheme == "https" and bool(host)
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _files(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return None
    location = value.get_secret_value()
    is_url = "://" in location
    if is_url and not is_secure(location):
        raise ValueError(
            "should be a folder, or begin with https:// (with http:// on this machine alone: "
            "others could change the figures on their way)"
        )
    path = urlsplit(location).path if is_url else location
    if DAY_FIELD in location and not path.endswith(FILE_SUFFIXES):
        raise ValueError(f"should end with one of {', '.join(FILE_SUFFIXES)} when it has {{day}}")
    if re.search(r"\{\w*\}", path.replace(DAY_FIELD, "")):
        raise ValueError("should have nothing in braces but {day}, which stands for the day")
    if DAY_FIELD not in location and path.endswith(FILE_SUFFIXES):
        raise ValueError("should have {day} in it when it names a file: there is one a day")
    return value


def _folder(value: Path) -> Path:
    # A path has one slash where an address has two.
    if re.match(r"\w+:/", value.as_posix()):
        raise ValueError("should be a folder: `export --to` writes to buckets")
    return value


def _base_url(value: str | None) -> str | None:
    if value is not None:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc or not value.endswith("/"):
            raise ValueError("should look like https://bucket.example/dumps/, with the last /")
    return value


def _service_account_json(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return None
    try:
        account = json.loads(value.get_secret_value())
    except ValueError:
        account = None
    if not isinstance(account, dict) or account.get("type") != "service_account":
        raise ValueError("should be the whole JSON document of a service account's key")
    return value


def _limits(value: str) -> str:
    try:
        usable = not value or all(limit.amount > 0 for limit in limits.parse_many(value))
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "should be limits separated by ';', such as '10/second;300/minute', or empty for none"
        )
    return value


def _redis_uri(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        uri = urlsplit(value.get_secret_value())
        try:
            # What redis-py would find in a query it takes for arguments of its own.
            usable = (
                uri.scheme in REDIS_SCHEMES
                and not uri.query
                and (uri.port or 1) > 0
                and (bool(uri.path) if uri.scheme == UNIX_REDIS_SCHEME else bool(uri.hostname))
                and (uri.scheme == UNIX_REDIS_SCHEME or re.fullmatch(r"(/\d*)?", uri.path))
            )
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(
                "should look like redis://:password@host:6379/0; "
                f"it may begin with {', '.join(REDIS_SCHEMES)}"
            )
    return value


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        try:
            ip_network(name)
        except ValueError:
            raise ValueError(
                "should be addresses and networks such as 10.0.0.1,192.168.0.0/16,fd00::/8, "
                f"which {name!r} is not"
            ) from None
    return value


def _lower_case(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def _events(value: object) -> object:
    return read_events(Path(value)) if isinstance(value, str) else value


def _breakdown_names(value: object) -> object:
    if not isinstance(value, str):
        return value
    names = [name.strip().lower() for name in value.split(",") if name.strip()]
    if names == ["none"]:
        return ()
    known = [breakdown.name for breakdown in OPTIONAL_BREAKDOWNS]
    if not names or not set(names) <= set(known):
        raise ValueError(f"should be some of {', '.join(known)}, separated by commas, or none")
    return tuple(name for name in known if name in names)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    database_url: Annotated[SecretStr | None, AfterValidator(_postgres_url)] = Field(
        default=None,
        description="Postgres 14 or later, `postgresql://user:password@host:5432/database`. "
        "Left out, an embedded Postgres is started under `DATA_DIR`.",
    )
    database_wait_seconds: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="How long `serve` waits at its start for a database that can't be reached.",
    )
    data_dir: Path = Field(
        default=Path(".data"), description="Folder of the embedded Postgres and its data."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(default=1, ge=1, le=256, description="Number of server processes.")
    graceful_stop_seconds: int = Field(
        default=8,
        ge=0,
        le=3600,
        description="How long a stop waits for running requests and downloads of dumps. "
        "Everything else is closed within 2 seconds after that.",
    )
    retention_days: int = Field(
        default=SERVED_DAYS,
        ge=30,
        le=3660,
        description="Days served, ending with the latest published one. "
        "At least the 30 that `last_month` sums.",
    )
    ingest_schedule: Annotated[InstanceOf[Schedule], BeforeValidator(_schedule)] = Field(
        default=Schedule("0 1 * * *"),
        description="When the daily job runs: five cron fields (minute, hour, day, month, "
        "weekday), UTC. They mean what cron(5) defines; a schedule that never fires is refused.",
    )
    ingest_source: IngestSource = Field(
        default=IngestSource.AUTO,
        description="Where downloads come from: `bigquery`, `file`, `sample`, or `auto`, which is "
        "`bigquery` when `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT_JSON` or "
        "`BIGQUERY_EMULATOR_HOST` is set, `file` when `INGEST_FILES` is, and `sample` otherwise. "
        "`none` only serves: another process ingests.",
    )
    ingest_files: Annotated[SecretStr | None, AfterValidator(_files)] = Field(
        default=None,
        description="Where the files of `INGEST_SOURCE=file` are: a folder of dumps, the "
        "`https://host/api/dumps` of another instance, an `https://` folder of dumps with its last "
        "`/`, or a path or `https://` address with `{day}` in it.",
    )
    ingest_breakdowns: Annotated[
        tuple[str, ...] | None, NoDecode, BeforeValidator(_breakdown_names)
    ] = Field(
        default=None,
        description="Breakdowns that are ingested besides those by Python version and system, "
        "separated by commas: `installer`, `ci`, `country`, `version`, `implementation`, or `none` "
        "of them. Left out, it is `installer`, which costs nothing more, and all that there are "
        "where the data is the sample, or in files.",
    )
    ingest_counted_files: CountedFiles = Field(
        default=CountedFiles.ALL,
        description="Which downloads BigQuery counts on days until 24 August 2026: `all`, like the "
        "public service, or `artifacts`, only of files that end in `.whl`, `.tar.gz` or `.zip`, "
        "which alone count since. That reads one more column of those days, and makes them "
        "comparable with later ones.",
    )
    ingest_events_file: Annotated[tuple[Event, ...], NoDecode, BeforeValidator(_events)] = Field(
        default=(),
        description="TOML file of known breaks in the figures, which `/api/events` lists besides "
        "PyPI's own.",
    )
    ingest_max_days_per_run: int = Field(
        default=7,
        ge=1,
        description="Days that a run of the ingest job reads at most: the latest that are missing, "
        "held or to be read again. Each costs a query.",
    )
    ingest_retry_after_minutes: float = Field(
        default=30.0,
        gt=0,
        le=7 * 24 * 60,
        description="How long after a day was held, or failed, it is read again; then twice as "
        "long each time, up to a week for a held day whose partition shows whether it changed, and "
        "otherwise up to a month.",
    )
    ingest_recheck_after_hours: float = Field(
        default=24.0,
        ge=0,
        le=30 * 24,
        description="How long after its end a day that was read sooner is checked once more, and "
        "replaced if it grew: late downloads are in by then. Only a changed partition is read, and "
        "billed, again. 0 turns the check off.",
    )
    ingest_min_packages_ratio: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="Packages that a day needs to be published, as a ratio to the median of the "
        "same weekday in the four weeks before and after it.",
    )
    ingest_max_packages_ratio: float = Field(
        default=1.5, ge=1, description="Packages that it may have, as a ratio to the same."
    )
    ingest_min_downloads_ratio: float = Field(
        default=0.6, ge=0, le=1, description="Downloads that it needs, in the same way."
    )
    ingest_max_downloads_ratio: float = Field(
        default=2.0, ge=1, description="Downloads that it may have, in the same way."
    )
    ingest_step_days: int = Field(
        default=3,
        ge=1,
        le=30,
        description="Number of days in a row that make a new level, and are published, if they "
        "deviate in the same way and stay the same for six hours.",
    )
    ingest_min_step_ratio: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Packages and downloads that a day needs to be part of a new level, as a ratio "
        "to the same. A day with less stays held until the source changes or `--force` publishes "
        "it: no real change takes so many downloads away.",
    )
    ingest_max_step_ratio: float = Field(
        default=5.0,
        ge=1,
        description="Packages and downloads that it may have, in the same way.",
    )
    google_application_credentials: Path | None = Field(
        default=None, description="File with the key of a Google service account."
    )
    google_service_account_json: Annotated[
        SecretStr | None, AfterValidator(_service_account_json)
    ] = Field(
        default=None,
        description="The same key as a JSON document, for hosts that only have variables.",
    )
    bigquery_project: str | None = Field(
        default=None,
        description="Google Cloud project that is billed. Left out, that of the credentials.",
    )
    bigquery_table: Annotated[str, AfterValidator(_bigquery_table)] = Field(
        default="bigquery-public-data.pypi.file_downloads",
        description="Table of raw downloads, `project.dataset.table`.",
    )
    bigquery_max_bytes_billed: int = Field(
        default=500 * 2**30,
        ge=10 * 2**20,
        description="Bytes that the query of one day may bill: over it, BigQuery refuses the "
        "query at no cost. The default is 500 GiB.",
    )
    bigquery_emulator_host: Annotated[str | None, AfterValidator(_http_address)] = Field(
        default=None,
        description="Address of a BigQuery emulator, `http://127.0.0.1:9050`, "
        "called without credentials.",
    )
    mirror_installers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)] = (
        Field(
            default=("bandersnatch", "z3c.pypimirror", "Artifactory", "devpi"),
            description="Installers that are mirrors, separated by commas: "
            "their downloads count in `with_mirrors` only.",
        )
    )
    dumps_dir: Annotated[Path, AfterValidator(_folder)] = Field(
        default=Path(".data/dumps"),
        description="Folder that `export` writes dumps to where it is not told another place, and "
        "that `/api/dumps` lists.",
    )
    dumps_url: Annotated[str | None, AfterValidator(_base_url)] = Field(
        default=None,
        description="Where others hand out the same files, `https://bucket.example/dumps/`. "
        "Left out, the service does.",
    )
    trusted_proxies: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_comma_separated), AfterValidator(_networks)
    ] = Field(
        default=(),
        description="Addresses and networks of the proxies in front, separated by commas: only "
        "from them `X-Forwarded-For` says who the client is.",
    )
    rate_limits: Annotated[str, AfterValidator(_limits)] = Field(
        default="10/second;300/minute",
        description="Requests that one client address may make, "
        "several limits separated by `;`. Empty means no limit.",
    )
    rate_limit_storage_uri: Annotated[SecretStr | None, AfterValidator(_redis_uri)] = Field(
        default=None,
        description="Redis in which processes and machines count together, one server and no "
        "cluster, `redis://:password@host:6379/0`. Left out, each process counts for itself.",
    )
    response_cache_max_bytes: int = Field(
        default=64 * 2**20,
        ge=0,
        description="Memory that each process takes for answers it has given, "
        "until the next publish. The default is 64 MiB; 0 keeps none.",
    )
    request_timeout_seconds: float = Field(
        default=15.0,
        gt=0,
        le=600,
        description="After which a request that has no answer yet is answered with status 503.",
    )
    request_log: bool = Field(default=True, description="Whether each request is logged.")
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(_lower_case)
    ] = Field(default="info", description="Least severe level that is logged.")
    log_format: Literal["console", "json"] = Field(
        default="console", description="Log lines for people, or one JSON object a line."
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_means_left_out(cls, values: dict[str, object]) -> dict[str, object]:
        return {
            name: value for name, value in values.items() if value != "" or name == "rate_limits"
        }

    @property
    def source(self) -> IngestSource:
        """Where downloads come from: `ingest_source`, with `auto` decided."""
        if self.ingest_source is not IngestSource.AUTO:
            return self.ingest_source
        credentials = (
            self.google_application_credentials,
            self.google_service_account_json,
            self.bigquery_emulator_host,
        )
        if any(credentials):
            return IngestSource.BIGQUERY
        return IngestSource.FILE if self.ingest_files else IngestSource.SAMPLE

    def breakdowns_of(self, source: IngestSource) -> tuple[Breakdown, ...]:
        """The optional breakdowns that are ingested from a source."""
        names = self.ingest_breakdowns
        if names is None:
            is_free = source in {IngestSource.SAMPLE, IngestSource.FILE}
            return OPTIONAL_BREAKDOWNS if is_free else (INSTALLER,)
        return tuple(breakdown for breakdown in OPTIONAL_BREAKDOWNS if breakdown.name in names)


def load_settings() -> Settings:
    """The settings of this process's environment and `.env` file.

    Raises `SettingsError`, in one line that names each wrong variable and what would be right.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(map(_explain, error.errors()))) from None
    if settings.google_application_credentials:
        # Google's library looks for this one by itself, and knows no `.env` file.
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(settings.google_application_credentials)
    return settings


def _explain(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    message = error["msg"].removeprefix("Value error, ")
    secret = SecretStr in get_args(Settings.model_fields[name].annotation)
    shown = "" if secret else f"={error['input']}"
    return f"{name.upper()}{shown}: {message[0].lower()}{message[1:]}"

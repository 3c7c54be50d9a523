"""Every setting: its name, type, default and help.

A setting is an environment variable, or a line of a `.env` file, with the field's name in capitals.
Only `app.cli`, `app.main` and `alembic/env.py` call `load_settings`; all other code receives the
settings as an argument. `make docs` writes docs/configuration.md from this file.
"""

import os
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import getproxies

from dotenv.parser import parse_stream
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from app import setting_types as types
from app.addresses import check_encoding
from app.domain.breakdowns import INSTALLER, OPTIONAL_BREAKDOWNS, Breakdown
from app.domain.events import CountedFiles
from app.domain.package_name import followed_text
from app.domain.schedule import Schedule
from app.errors import SettingsError

LOOPBACK_HOSTS = "localhost,127.0.0.1,::1,127.0.0.0/8"
"""Hosts that clients connect to without a proxy."""


class IngestSource(StrEnum):
    AUTO = "auto"
    BIGQUERY = "bigquery"
    SAMPLE = "sample"
    FILE = "file"
    NONE = "none"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        # Editors on Windows begin a file with a byte order mark.
        env_file_encoding="utf-8-sig",
        extra="ignore",
        frozen=True,
        enable_decoding=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: types.PostgresUrl | None = None
    """URL of a Postgres 14 or later, in libpq's form:
    `postgresql://user:password@host:5432/database`. By default an embedded Postgres runs under
    `DATA_DIR`.
    """

    database_wait_seconds: float = Field(30.0, ge=0, le=3600)
    """How long `serve` waits at its start for a database that can't be reached."""

    data_dir: types.Folder = Path(".data")
    """Folder of the embedded Postgres and its data."""

    host: types.Host = "127.0.0.1"
    """Address to listen on."""

    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""

    workers: int = Field(1, ge=1, le=256)
    """Number of server processes."""

    graceful_stop_seconds: int = Field(8, ge=0, le=3600)
    """How long a stop waits for running requests, including dump files that are being sent. Closing
    takes up to 2 seconds more.
    """

    keep_alive_seconds: int = Field(75, ge=1, le=3600)
    """How long an idle connection stays open. A proxy in front should close idle ones earlier."""

    max_connections: int = Field(1000, ge=1)
    """Maximum number of open connections per process. A new one beyond it closes the one that has
    been idle longest, or if none is idle, the one without activity for longest.
    """

    max_connections_per_client: int = Field(256, ge=1)
    """Maximum number of open connections per client address and process. `TRUSTED_PROXIES` are
    exempt.
    """

    retention_days: int = Field(180, ge=30, le=3660)
    """Number of days served, at least 30. The last one is the latest published day."""

    keep_months: int | None = Field(None, ge=0, le=1200)
    """Maximum number of complete months whose monthly downloads are stored, counted back from the
    latest one. All by default. 0 stores none, and deletes those that are stored.
    """

    ingest_schedule: types.CronSchedule = Schedule("0 1 * * *")
    """Time of the daily ingest job, in UTC: the five fields of cron(5)."""

    ingest_source: Annotated[IngestSource, types.CASE_INSENSITIVE] = IngestSource.AUTO
    """Source of downloads: `bigquery`, `file`, `sample`, or `auto`, which is `bigquery` if
    `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT_JSON` or `BIGQUERY_EMULATOR_HOST` is
    set, else `file` if `INGEST_FILES` is set, else `sample`. With `none` the process only serves,
    and another one has to ingest.
    """

    ingest_files: types.FileLocation | None = None
    """Location of the files of `INGEST_SOURCE=file`: a folder of dumps, `https://host/api/dumps` of
    another instance, an `https://` folder of dumps with its last `/`, or a path or `https://`
    address with `{day}` in it.
    """

    ingest_breakdowns: types.BreakdownNames | None = Field(
        None,
        description="Breakdowns to ingest besides those by Python version and system, separated by "
        f"commas: {', '.join(f'`{one.name}`' for one in OPTIONAL_BREAKDOWNS)}; or `none`. For "
        "BigQuery the default is `installer`, which costs nothing more. For the sample and for "
        "files it is all of them.",
    )

    ingest_packages: types.PackageNames | None = None
    """Names of the only packages to follow, separated by commas, or `@` and the path of a file with
    one name per line and comments after `#`. By default all packages are ingested. A database that
    follows all packages can't be changed to follow some, or the reverse.
    """

    ingest_counted_files: Annotated[CountedFiles, types.CASE_INSENSITIVE] = CountedFiles.ALL
    """Downloads that BigQuery counts on days until 24 August 2026: `all`, like the public service,
    or `artifacts`, which are files that end in `.whl`, `.tar.gz` or `.zip`. PyPI counts only these
    since then, so `artifacts` makes earlier days comparable with later ones. For earlier days,
    `artifacts` reads one more column, which is billed.
    """

    ingest_events_file: types.EventsFile = ()
    """TOML file with known breaks in the figures, which `/api/events` lists besides PyPI's own."""

    ingest_max_days_per_run: int = Field(7, ge=1)
    """Maximum number of days that one run of the job reads. Each costs a query. The other days wait
    for later runs.
    """

    ingest_retry_after_minutes: float = Field(30.0, gt=0, le=7 * 24 * 60)
    """Time after which a day that was held or failed is read again. It doubles each time, up to a
    week for a held day with partition metadata, or else up to 30 days.
    """

    ingest_recheck_after_hours: float = Field(24.0, ge=0, le=30 * 24)
    """Hours after the end of a day at which it is checked once more, if it was last read before
    that. The day is replaced if late downloads have arrived. Only a changed partition is read and
    billed again. 0 disables the check.
    """

    ingest_min_packages_ratio: float = Field(0.75, ge=0, le=1)
    """Minimum number of packages. This and the following three settings are ratios to the median of
    the same weekday in the four weeks before and after the day, or else of other days near it.
    """

    ingest_max_packages_ratio: float = Field(1.5, ge=1)
    """Maximum number of packages, as such a ratio."""

    ingest_min_downloads_ratio: float = Field(0.6, ge=0, le=1)
    """Minimum number of downloads, as such a ratio."""

    ingest_max_downloads_ratio: float = Field(2.0, ge=1)
    """Maximum number of downloads, as such a ratio."""

    ingest_step_days: int = Field(3, ge=1, le=30)
    """Number of consecutive days that form a new level, if they deviate in the same way and have
    not changed for six hours.
    """

    ingest_min_step_ratio: float = Field(0.2, ge=0, le=1)
    """Minimum ratio of packages and downloads for a day to be part of a new level. A day below it
    stays held until the source changes or `pypi-stats ingest --force` publishes it.
    """

    ingest_max_step_ratio: float = Field(5.0, ge=1)
    """Maximum ratio of packages and downloads for a day to be part of a new level."""

    google_application_credentials: types.CredentialsFile | None = None
    """File with the key of a Google service account."""

    google_service_account_json: types.ServiceAccountKey | None = None
    """The key itself, as a JSON document, for platforms where a file is not possible."""

    bigquery_project: types.BigQueryProject | None = None
    """Google Cloud project that is billed. By default it is the project of the credentials."""

    bigquery_table: types.BigQueryTable = "bigquery-public-data.pypi.file_downloads"
    """Table of raw downloads, `project.dataset.table`."""

    bigquery_max_bytes_billed: int = Field(500 * 2**30, ge=10 * 2**20)
    """Maximum bytes billed for each day that a query reads, by default 500 GiB. BigQuery refuses a
    larger query and bills nothing.
    """

    bigquery_emulator_host: types.EmulatorAddress | None = None
    """Address of a BigQuery emulator, such as `http://127.0.0.1:9050`. It gets no credentials."""

    mirror_installers: types.Installers = ("bandersnatch", "z3c.pypimirror", "Artifactory", "devpi")
    """Installers that are mirrors, separated by commas. Their downloads count only in
    `with_mirrors`.
    """

    dumps_dir: types.Folder = Path(".data/dumps")
    """Folder of dumps. `export` writes there by default, and `/api/dumps` lists the files."""

    dumps_url: types.BaseUrl | None = None
    """Address where another server offers the same files, such as `https://bucket.example/dumps/`.
    By default the service sends the files itself.
    """

    dumps_daily: bool = False
    """`true` writes the dumps of new and changed days and months to `DUMPS_DIR` at the end of each
    run of the ingest job.
    """

    trusted_proxies: types.Networks = ()
    """Addresses and networks of the proxies in front, separated by commas. The service trusts only
    their `X-Forwarded-For` and `X-Forwarded-Prefix`.
    """

    root_path: types.RootPath = ""
    """Prefix that a proxy removes from all paths, such as `/stats`. `X-Forwarded-Prefix` of a
    trusted proxy takes precedence.
    """

    rate_limits: types.Limits = "10/second;300/minute"
    """Limits of requests per client address, separated by `;`. Empty means no limit."""

    client_rate_limits: types.ClientRateLimits | None = None
    """Limits of known clients, as `CLIENT=LIMITS` separated by commas. `CLIENT` is a network, each
    of whose addresses is limited separately (the smallest network of an address counts), or `key:`
    followed by the SHA-256 of a key in hexadecimal digits. `LIMITS` are written as in
    `RATE_LIMITS`, or `none`. An example is `203.0.113.0/24=1000/minute,198.51.100.7=none`.
    """

    rate_limit_storage_uri: types.RedisUri | None = None
    """Redis server (not a cluster) in which all processes count requests together, such as
    `redis://:password@host:6379/0`. By default each process counts its own requests.
    """

    response_cache_max_bytes: int = Field(64 * 2**20, ge=0)
    """Memory per process for cached responses, by default 64 MiB. 0 disables the cache."""

    request_timeout_seconds: float = Field(15.0, gt=0, le=600)
    """Time after which a request that has no response yet gets status 503."""

    request_log: bool = True
    """`true` logs each request."""

    log_level: types.LogLevel = "info"
    """Minimum level: `debug`, `info`, `warning` or `error`."""

    log_format: types.LogFormat = "console"
    """`console` logs lines for people, `json` one JSON object per line."""

    @model_validator(mode="before")
    @classmethod
    def _omit_empty(cls, values: dict[str, object]) -> dict[str, object]:
        texts = {name: value.strip() for name, value in values.items() if isinstance(value, str)}
        empty = {name for name, text in texts.items() if not text and name != "rate_limits"}
        return {name: value for name, value in (values | texts).items() if name not in empty}

    @property
    def source(self) -> IngestSource:
        """The source of downloads: `ingest_source`, with `auto` resolved."""
        if self.ingest_source is not IngestSource.AUTO:
            return self.ingest_source
        is_key_set = self.google_application_credentials or self.google_service_account_json
        if is_key_set or self.bigquery_emulator_host:
            return IngestSource.BIGQUERY
        return IngestSource.FILE if self.ingest_files else IngestSource.SAMPLE

    @property
    def followed(self) -> str | None:
        """The followed packages, as they are stored with days. None if all packages are."""
        return followed_text(self.ingest_packages)

    def breakdowns_of(self, source: IngestSource) -> tuple[Breakdown, ...]:
        """Return the optional breakdowns that are ingested from a source."""
        names = self.ingest_breakdowns
        if names is None:
            is_free = source in {IngestSource.SAMPLE, IngestSource.FILE}
            return OPTIONAL_BREAKDOWNS if is_free else (INSTALLER,)
        return tuple(breakdown for breakdown in OPTIONAL_BREAKDOWNS if breakdown.name in names)


def load_settings() -> Settings:
    """Return the settings from this process's environment and `.env` file.

    Raises `SettingsError`, whose single line names each wrong variable and describes valid values.
    """
    _check_env_file(Path(str(Settings.model_config["env_file"])))
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(map(_explain, error.errors()))) from None
    if settings.google_application_credentials:
        # Google's library reads only the environment, not the `.env` file.
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(settings.google_application_credentials)
    _check_proxies()
    # Set both variables, because some HTTP libraries read only one of them.
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if exempt != "*" and not exempt.endswith(LOOPBACK_HOSTS):
        exempt = f"{exempt},{LOOPBACK_HOSTS}".lstrip(",")
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = exempt
    return settings


def _check_proxies() -> None:
    """Raise `SettingsError` if a proxy's address can't be parsed.

    The error of the HTTP library would contain a part of the address, perhaps of its password.
    """
    for name in ("http", "https", "all"):
        proxy = getproxies().get(name, "")
        address = proxy if "://" in proxy else f"http://{proxy}"
        try:
            check_encoding(address)
            _ = urlsplit(address).port
        except ValueError:
            raise SettingsError(
                f"{name.upper()}_PROXY: should look like http://user:password@host:3128, with "
                "special characters of the password percent-encoded"
            ) from None


def _check_env_file(path: Path) -> None:
    """Raise `SettingsError` if the file can't be read, or if one of its lines sets nothing.

    Messages contain no part of the file, because a line may belong to a key that was pasted.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [line for line in parse_stream(file) if line.key or line.error]
    except (OSError, UnicodeError) as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return
        reason = getattr(error, "strerror", None) or "it is not encoded in UTF-8"
        raise SettingsError(f"{path} can't be read: {reason}") from None
    for line in lines:
        # The parser's line includes the blank lines before it.
        text = line.original.string
        number = line.original.line + text[: -len(text.lstrip())].count("\n")
        name = (line.key or "").lower()
        # Docker Compose reads its own variables from the same file.
        if name not in Settings.model_fields and not name.startswith("compose_"):
            near = get_close_matches(name, Settings.model_fields, 1, cutoff=0.7)
            advice = f"did you mean {near[0].upper()}?" if near else "it names no setting"
            raise SettingsError(f"{path}, line {number}, sets nothing: {advice}")
        if line.value is None:
            raise SettingsError(
                f"{path}, line {number}, sets nothing: it should look like {name.upper()}=value"
            )


def _explain(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return f"{str(error['loc'][0]).upper()}: {message[0].lower()}{message[1:]}"

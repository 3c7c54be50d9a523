"""Types of settings for which pydantic has none. Each validates its text when settings are loaded.

A failed check raises a `ValueError`. Its message follows the setting's name, describes the valid
values, and never repeats a secret.
"""

import json
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, InstanceOf, SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.client_limits import parse_client_limits, parse_limits
from app.domain.events import Event, read_events
from app.domain.schedule import Schedule

DATABASE_ARGUMENTS = {"host", "sslmode", "ssl", "target_session_attrs"}
"""Arguments of `DATABASE_URL` that have an effect."""

LIBPQ_ONLY_ARGUMENTS = {"application_name", "channel_binding", "connect_timeout"}
"""Arguments of `DATABASE_URL` that are ignored. Hosting providers add them for other drivers."""

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

UNIX_REDIS_SCHEME = "redis+unix"
REDIS_SCHEMES = ("redis", "rediss", UNIX_REDIS_SCHEME)

DAY_FIELD = "{day}"
"""Placeholder of the day in `INGEST_FILES`."""

FILE_SUFFIXES = (".parquet", ".csv", ".csv.gz", ".ndjson", ".ndjson.gz")
"""Endings of the names of files that can be ingested."""


def is_secure(address: str) -> bool:
    """Return True if responses can't be changed on the network: the address uses TLS or is on this
    machine.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port
        if parts.scheme != "http":
            return parts.scheme == "https" and bool(host)
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _check_postgres_url(value: SecretStr) -> SecretStr:
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    # Hosting providers also use `postgres://`, which means the same.
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


def _check_redis_uri(value: SecretStr) -> SecretStr:
    uri = urlsplit(value.get_secret_value())
    try:
        # redis-py would take options from a query.
        is_valid = uri.scheme in REDIS_SCHEMES and not uri.query and (uri.port or 1) > 0
    except ValueError:
        is_valid = False
    if uri.scheme == UNIX_REDIS_SCHEME:
        is_valid = is_valid and bool(uri.path)
    elif not uri.hostname or not re.fullmatch(r"(/\d*)?", uri.path):
        is_valid = False
    if not is_valid:
        raise ValueError(
            "should look like redis://:password@host:6379/0; "
            f"it may begin with {', '.join(REDIS_SCHEMES)}"
        )
    return value


def _check_file_location(value: SecretStr) -> SecretStr:
    location = value.get_secret_value()
    is_url = "://" in location
    if is_url and not is_secure(location):
        raise ValueError(
            "should be a folder, or begin with https:// (http:// is accepted only for this "
            "machine, because others could change the figures on their way)"
        )
    path = urlsplit(location).path if is_url else location
    if DAY_FIELD in location and not path.endswith(FILE_SUFFIXES):
        raise ValueError(f"should end with one of {', '.join(FILE_SUFFIXES)} when it has {{day}}")
    if re.search(r"\{\w*\}", path.replace(DAY_FIELD, "")):
        raise ValueError("should contain no other placeholder in braces than {day}")
    if DAY_FIELD not in location and path.endswith(FILE_SUFFIXES):
        raise ValueError("should contain {day} when it names a file, because each day has its own")
    return value


def _check_service_account(value: SecretStr) -> SecretStr:
    try:
        account = json.loads(value.get_secret_value())
    except ValueError:
        account = None
    if not isinstance(account, dict) or account.get("type") != "service_account":
        raise ValueError("should be the whole JSON document of a service account's key")
    return value


def _check_folder(value: Path) -> Path:
    # `Path` has replaced the two slashes of an address by one.
    if re.match(r"\w+:/", value.as_posix()):
        raise ValueError("should be a folder: `export --to` writes to buckets")
    return value


def _check_limits(value: str) -> str:
    try:
        parse_limits(value)
    except ValueError:
        raise ValueError(
            "should be limits separated by ';', such as '10/second;300/minute', or empty for none"
        ) from None
    return value


def _check_client_limits(value: SecretStr) -> SecretStr:
    list(parse_client_limits(value.get_secret_value()))
    return value


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        try:
            ip_network(name)
        except ValueError:
            raise ValueError(
                "should be addresses and networks such as 10.0.0.1,192.168.0.0/16,fd00::/8, "
                f"which {name!r} is not"
            ) from None
    return value


def _parse_breakdowns(text: str) -> tuple[str, ...]:
    names = _parse_list(text.lower())
    if names == ("none",):
        return ()
    known = [breakdown.name for breakdown in OPTIONAL_BREAKDOWNS]
    if not names or not set(names) <= set(known):
        raise ValueError(f"should be some of {', '.join(known)}, separated by commas, or none")
    return tuple(name for name in known if name in names)


def _parse_list(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parse_events(text: str) -> tuple[Event, ...]:
    return read_events(Path(text))


def _parsed(parse: Callable[[str], object]) -> BeforeValidator:
    """Parse a setting's text. Values that are not text are passed through."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _shaped(pattern: str, example: str) -> AfterValidator:
    """Require a text that matches the pattern; the error shows the example."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"should look like {example}")
        return value

    return AfterValidator(check)


PostgresUrl = Annotated[SecretStr, AfterValidator(_check_postgres_url)]
RedisUri = Annotated[SecretStr, AfterValidator(_check_redis_uri)]
FileLocation = Annotated[SecretStr, AfterValidator(_check_file_location)]
ServiceAccountKey = Annotated[SecretStr, AfterValidator(_check_service_account)]
Folder = Annotated[Path, AfterValidator(_check_folder)]
BaseUrl = Annotated[
    str, _shaped(r"https?://[^/]+/(.*/)?", "https://bucket.example/dumps/, with the last /")
]
EmulatorAddress = Annotated[str, _shaped(r"https?://.*", "http://127.0.0.1:9050")]
BigQueryTable = Annotated[str, _shaped(r"[^.`]+\.[^.`]+\.[^.`]+", "project.dataset.table")]
RootPath = Annotated[str, _shaped(r"((/[\w.~-]+)+)?", "/stats, without a / at its end")]
CronSchedule = Annotated[InstanceOf[Schedule], _parsed(Schedule)]
Limits = Annotated[str, AfterValidator(_check_limits)]
ClientRateLimits = Annotated[SecretStr, AfterValidator(_check_client_limits)]
Names = Annotated[tuple[str, ...], _parsed(_parse_list)]
Networks = Annotated[Names, AfterValidator(_check_networks)]
BreakdownNames = Annotated[tuple[str, ...], _parsed(_parse_breakdowns)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], _parsed(str.lower)]
EventsFile = Annotated[tuple[Event, ...], _parsed(_parse_events)]

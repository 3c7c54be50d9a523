"""Types of settings for which pydantic has none. Each validates its text when settings are loaded.

A failed check raises a `ValueError`. Its message follows the setting's name, describes the valid
values, and never repeats the value, because any variable may contain a secret by mistake.
"""

import json
import os
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, InstanceOf, SecretStr

from app.addresses import DatabaseAddress, check_encoding
from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.client_limits import parse_client_limits, parse_limits
from app.domain.events import Event, read_events
from app.domain.schedule import Schedule

UNIX_REDIS_SCHEME = "redis+unix"
REDIS_SCHEMES = ("redis", "rediss", UNIX_REDIS_SCHEME)

_PLATFORM = re.compile(
    r"(x86_64|i\d86|aarch64|arm64|armv\d\w*|ppc64\w*|powerpc\w*|s390x|riscv64)(-|$)"
)
"""Beginning of the name of a platform, such as `x86_64-conda-linux-gnu`."""

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
    DatabaseAddress.parse(value.get_secret_value())
    return value


def _check_redis_uri(value: SecretStr) -> SecretStr:
    check_encoding(value.get_secret_value())
    try:
        uri = urlsplit(value.get_secret_value())
        # redis-py would take options from a query.
        is_valid = uri.scheme in REDIS_SCHEMES and not uri.query and (uri.port or 1) > 0
        if uri.scheme == UNIX_REDIS_SCHEME:
            is_valid = is_valid and bool(uri.path)
        elif not uri.hostname or not re.fullmatch(r"(/\d*)?", uri.path):
            is_valid = False
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(
            "should look like redis://:password@host:6379/0; "
            f"it may begin with {', '.join(REDIS_SCHEMES)}"
        )
    return value


def _check_file_location(value: SecretStr) -> SecretStr:
    location = value.get_secret_value()
    check_encoding(location)
    is_url = "://" in location
    if not (is_secure(location) if is_url else is_path(location)):
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


def _check_credentials_file(value: Path) -> Path:
    if str(value).lstrip().startswith("{"):
        raise ValueError(
            "should be the path of a key file: set GOOGLE_SERVICE_ACCOUNT_JSON to the key itself"
        )
    if not os.path.isfile(value):  # noqa: PTH113 - `Path.is_file` raises for long names
        reason = "is a folder" if os.path.isdir(value) else "does not exist"  # noqa: PTH112
        raise ValueError(f"should be the path of a key file, but this path {reason}")
    return value


def is_path(text: str) -> bool:
    """Return True unless the text looks like an address, or a part of one: messages contain paths,
    and an address may contain a password.
    """
    return not re.search(r":/|:.*@|\?.*=|\{\s*\"", text)


def _check_folder(value: Path) -> Path:
    if not is_path(value.as_posix()):
        raise ValueError("should be a folder: `export --to` writes to buckets")
    return value


def _check_host(value: str) -> str:
    if _PLATFORM.match(value):
        raise ValueError(
            "should be an address to listen on, such as 127.0.0.1 or 0.0.0.0, but it is the name "
            "of a platform: conda and some shells set HOST to it, so unset it or set it to an "
            "address"
        )
    if not re.fullmatch(r"[\w.:%-]+", value):
        raise ValueError("should be an address to listen on, such as 127.0.0.1, 0.0.0.0 or ::")
    return value


def _check_emulator(value: str) -> str:
    if not (re.fullmatch(r"https?://[^/@?#\s]+/?", value) and is_secure(value)):
        raise ValueError(
            "should look like http://127.0.0.1:9050, or begin with https:// for another machine, "
            "without a user, a password and a path"
        )
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


def _check_installers(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[\w.+ -]+", name) for name in value):
        raise ValueError("should be names of installers, such as bandersnatch,devpi")
    return value


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        try:
            network = ip_network(name, strict=False)
        except ValueError:
            raise ValueError(
                "should be addresses and networks such as 10.0.0.1,192.168.0.0/16,fd00::/8"
            ) from None
        address = name.partition("/")[0]
        if ip_address(address) != network.network_address:
            raise ValueError(
                f"should have {network} for that network, or {address} for one address"
            )
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


CASE_INSENSITIVE = _parsed(str.lower)
"""For settings that have one of a few values."""

PostgresUrl = Annotated[SecretStr, AfterValidator(_check_postgres_url)]
RedisUri = Annotated[SecretStr, AfterValidator(_check_redis_uri)]
FileLocation = Annotated[SecretStr, AfterValidator(_check_file_location)]
ServiceAccountKey = Annotated[SecretStr, AfterValidator(_check_service_account)]
CredentialsFile = Annotated[Path, AfterValidator(_check_credentials_file)]
Folder = Annotated[Path, AfterValidator(_check_folder)]
Host = Annotated[str, AfterValidator(_check_host)]
BaseUrl = Annotated[
    str,
    _shaped(
        r"https?://[^/@?#\s]+/([^@?#\s]*/)?",
        "https://bucket.example/dumps/, with the last / and without a password or signature, "
        "because /api/dumps shows it to every client",
    ),
]
EmulatorAddress = Annotated[str, AfterValidator(_check_emulator)]
BigQueryProject = Annotated[str, _shaped(r"[\w.:-]+", "my-project-123456")]
BigQueryTable = Annotated[str, _shaped(r"[^.`]+\.[^.`]+\.[^.`]+", "project.dataset.table")]
RootPath = Annotated[str, _shaped(r"((/[\w.~-]+)+)?", "/stats, without a / at its end")]
CronSchedule = Annotated[InstanceOf[Schedule], _parsed(Schedule)]
Limits = Annotated[str, AfterValidator(_check_limits)]
ClientRateLimits = Annotated[SecretStr, AfterValidator(_check_client_limits)]
Names = Annotated[tuple[str, ...], _parsed(_parse_list)]
Installers = Annotated[Names, AfterValidator(_check_installers)]
Networks = Annotated[Names, AfterValidator(_check_networks)]
BreakdownNames = Annotated[tuple[str, ...], _parsed(_parse_breakdowns)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], CASE_INSENSITIVE]
LogFormat = Annotated[Literal["console", "json"], CASE_INSENSITIVE]
EventsFile = Annotated[tuple[Event, ...], _parsed(_parse_events)]

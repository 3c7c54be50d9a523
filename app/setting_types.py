"""Types of settings that pydantic lacks. Each validates its text when settings are loaded.

A failed check raises a `ValueError`. Its message continues the setting's name, describes the valid
values, and never repeats the value, because any variable may contain a secret by mistake.
"""

import errno
import json
import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, InstanceOf, SecretStr

from app.addresses import DatabaseAddress, check_encoding
from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.client_limits import parse_client_limits, parse_limits, parse_network
from app.domain.events import Event, read_events
from app.domain.package_name import is_valid, normalise
from app.domain.schedule import Schedule

_PLATFORM = re.compile(
    r"(x86_64|i\d86|aarch64|arm64|armv\d\w*|ppc64\w*|powerpc\w*|s390x|riscv64)(-|$)"
)
"""Pattern of the beginning of a platform's name, such as `x86_64-conda-linux-gnu`."""

DAY_FIELD = "{day}"
"""Placeholder for the day in `INGEST_FILES`."""

MAX_FOLLOWED_PACKAGES = 200
"""Maximum number of followed packages. Their names are part of BigQuery's query, of the record of
each day, and of each entry in the list of dumps, which has 4 MiB at most.
"""

MAX_SHOWN_NAMES = 5

FILE_SUFFIXES = (".parquet", ".csv", ".csv.gz", ".ndjson", ".ndjson.gz")
"""Endings of the names of files that can be ingested."""


def is_secure(address: str) -> bool:
    """Return True if data can't be changed on its way: the address uses TLS or is this machine."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port
        if parts.scheme != "http":
            return parts.scheme == "https" and bool(host)
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_path(text: str) -> bool:
    """Return False if the text looks like an address or a part of one. Messages contain paths, but
    must not contain addresses, which may have a password.
    """
    return not re.search(r":/|:.*@|\?.*=|\{\s*\"", text)


def _check_file_location(location: str) -> None:
    check_encoding(location)
    is_url = "://" in location
    if not (is_secure(location) if is_url else is_path(location)):
        raise ValueError(
            "should be a folder, or begin with https:// (http:// is accepted only for this "
            "machine, because others could change the figures on their way)"
        )
    path = urlsplit(location).path if is_url else location
    has_day, is_file = DAY_FIELD in location, path.endswith(FILE_SUFFIXES)
    if has_day and not is_file:
        raise ValueError(f"should end with one of {', '.join(FILE_SUFFIXES)} when it has {{day}}")
    if re.search(r"\{\w*\}", path.replace(DAY_FIELD, "")):
        raise ValueError("should contain no other placeholder in braces than {day}")
    if is_file and not has_day:
        raise ValueError("should contain {day} when it names a file, because each day has its own")


def _check_service_account(key: str) -> None:
    try:
        account = json.loads(key)
    except ValueError:
        account = None
    if not isinstance(account, dict) or account.get("type") != "service_account":
        raise ValueError("should be the whole JSON document of a service account's key")


def _check_credentials_file(path: str) -> None:
    if path.lstrip().startswith("{"):
        raise ValueError(
            "should be the path of a key file: set GOOGLE_SERVICE_ACCOUNT_JSON to the key itself"
        )
    try:
        # Opening a pipe would wait for its writer.
        if Path(path).is_fifo():
            raise OSError(errno.EINVAL, "It is a pipe")  # noqa: TRY301 - reported like the others
        with Path(path).open("rb"):
            pass
    except OSError as error:
        reason = f"this path can't be read ({error.strerror})"
        raise ValueError(f"should be the path of a key file, but {reason}") from None


def _check_folder(path: str) -> None:
    if not is_path(path):
        raise ValueError("should be a folder: `export --to` writes to buckets")


def _check_host(host: str) -> None:
    if _PLATFORM.match(host):
        raise ValueError(
            "should be an address to listen on, such as 127.0.0.1 or 0.0.0.0, but it is the name "
            "of a platform: conda and some shells set HOST to it, so unset it or set it to an "
            "address"
        )
    if not re.fullmatch(r"[\w.:%-]+", host):
        raise ValueError("should be an address to listen on, such as 127.0.0.1, 0.0.0.0 or ::")


def _check_emulator(address: str) -> None:
    if not (re.fullmatch(r"https?://[^/@?#\s]+/?", address) and is_secure(address)):
        raise ValueError(
            "should look like http://127.0.0.1:9050, or begin with https:// for another machine, "
            "without a user, a password and a path"
        )


def _check_limits(limits: str) -> None:
    try:
        parse_limits(limits)
    except ValueError:
        raise ValueError(
            "should be limits separated by ';', such as '10/second;300/minute', or empty for none"
        ) from None


def _check_installers(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[\w.+ -]+", name) for name in names):
        raise ValueError("should be names of installers, such as bandersnatch,devpi")
    return names


def _check_networks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        parse_network(name)
    return names


def _parse_list(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parse_breakdowns(text: str) -> tuple[str, ...]:
    names = _parse_list(text.lower())
    if names == ("none",):
        return ()
    known = [breakdown.name for breakdown in OPTIONAL_BREAKDOWNS]
    if not names or not set(names) <= set(known):
        raise ValueError(f"should be some of {', '.join(known)}, separated by commas, or none")
    return tuple(name for name in known if name in names)


def _parse_packages(text: str) -> tuple[str, ...]:
    """Return the normalised names, sorted and without duplicates."""
    if text.startswith("@"):
        try:
            lines = Path(text[1:].strip()).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text in UTF-8"
            raise ValueError(
                f"should name a file that can be read after the @ ({reason})"
            ) from None
        unit, parts = "line", [_parse_list(line.partition("#")[0]) for line in lines]
    elif re.fullmatch(r"[^,]{1,250}", text) and (text.endswith(".txt") or Path(text).is_file()):
        raise ValueError("should have an @ before the path of a file")
    else:
        unit, parts = "number", [(name,) for name in _parse_list(text)]
    wrong = [
        # Another text may belong to a secret.
        repr(name) if re.fullmatch(r"[\w. -]{1,60}", name) else f"{unit} {number}"
        for number, part in enumerate(parts, start=1)
        for name in part
        if not is_valid(normalise(name))
    ]
    if wrong:
        more = ", ..." if len(wrong) > MAX_SHOWN_NAMES else ""
        raise ValueError(
            f"should contain only names that a package can have, which "
            f"{', '.join(wrong[:MAX_SHOWN_NAMES])}{more} is not"
        )
    names = tuple(sorted({normalise(name) for part in parts for name in part}))
    if not 0 < len(names) <= MAX_FOLLOWED_PACKAGES:
        raise ValueError(
            f"should name 1 to {MAX_FOLLOWED_PACKAGES:,} packages, but it names {len(names):,}"
        )
    return names


def _parsed(parse: Callable[[str], object]) -> BeforeValidator:
    """Parse a setting's text. Values that are not text are passed through."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """Require a text that the function accepts."""

    def validate(value: SecretStr | Path | str) -> object:
        check(value.get_secret_value() if isinstance(value, SecretStr) else str(value))
        return value

    return AfterValidator(validate)


def _shaped(pattern: str, example: str) -> AfterValidator:
    """Require a text that matches the pattern. The error contains the example."""

    def check(text: str) -> None:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"should look like {example}")

    return _checked(check)


CASE_INSENSITIVE = _parsed(str.lower)
"""Conversion to lower case, for settings with a fixed set of values."""

_PORT = r"(?!0+\b)([0-5]?\d{1,4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
PostgresUrl = Annotated[SecretStr, _checked(DatabaseAddress.parse)]
RedisUri = Annotated[
    SecretStr,
    _checked(check_encoding),
    # Forbid a query, from which redis-py would read options.
    _shaped(
        rf"rediss?://([^@/?#]*@)?([\w.-]+|\[[\w:.%]+\])(:{_PORT})?(/\d*)?"
        r"|redis\+unix://([^@/?#]*@)?/[^?#]+",
        "redis://:password@host:6379/0; it may begin with redis, rediss, redis+unix",
    ),
]
FileLocation = Annotated[SecretStr, _checked(_check_file_location)]
ServiceAccountKey = Annotated[SecretStr, _checked(_check_service_account)]
CredentialsFile = Annotated[Path, _checked(_check_credentials_file)]
Folder = Annotated[Path, _checked(_check_folder)]
Host = Annotated[str, _checked(_check_host)]
BaseUrl = Annotated[
    str,
    _shaped(
        r"https?://[^/@?#\s]+/([^@?#\s]*/)?",
        "https://bucket.example/dumps/, with the last / and without a password or signature, "
        "because /api/dumps shows it to every client",
    ),
]
EmulatorAddress = Annotated[str, _checked(_check_emulator)]
BigQueryProject = Annotated[str, _shaped(r"[\w.:-]+", "my-project-123456")]
BigQueryTable = Annotated[str, _shaped(r"[^.`]+\.[^.`]+\.[^.`]+", "project.dataset.table")]
RootPath = Annotated[str, _shaped(r"((/[\w.~-]+)+)?", "/stats, without a / at its end")]
CronSchedule = Annotated[InstanceOf[Schedule], _parsed(Schedule)]
Limits = Annotated[str, _checked(_check_limits)]
ClientRateLimits = Annotated[SecretStr, _checked(parse_client_limits)]
Names = Annotated[tuple[str, ...], _parsed(_parse_list)]
Installers = Annotated[Names, AfterValidator(_check_installers)]
Networks = Annotated[Names, AfterValidator(_check_networks)]
PackageNames = Annotated[tuple[str, ...], _parsed(_parse_packages)]
BreakdownNames = Annotated[tuple[str, ...], _parsed(_parse_breakdowns)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], CASE_INSENSITIVE]
LogFormat = Annotated[Literal["console", "json"], CASE_INSENSITIVE]
EventsFile = Annotated[tuple[Event, ...], _parsed(read_events)]

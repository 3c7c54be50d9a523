"""Parses addresses that may contain a password. Error messages never repeat a part of them."""

import getpass
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

EXAMPLE = "postgresql://user:password@host:5432/database"

DEFAULT_HOSTS = ("/run/postgresql", "/tmp", "localhost")  # noqa: S108 - Postgres's own default
"""Hosts for a URL without a host: the usual folders of the socket, then this machine."""

FILES = ("sslrootcert", "sslcert", "sslkey")

CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": (
        *("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    ),
}
"""Arguments of a database URL with a fixed set of values, and these values."""

ARGUMENTS = {
    *("application_name", "connect_timeout", "dbname", "host", "options", "password", "port"),
    *("ssl", "sslpassword", "user"),
    *(*FILES, *CHOICES),
}
"""Arguments of a database URL, with the meaning that libpq documents."""

IGNORED_ARGUMENTS = {
    *("channel_binding", "client_encoding", "fallback_application_name", "gssencmode"),
    *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
    *("sslcompression", "sslsni", "tcp_user_timeout"),
}
"""Arguments that hosting providers add for libpq, and that asyncpg does not support."""

CONNECT_TIMEOUT_SECONDS = 5

_URL = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://(?:(?P<user>[^:@]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<hosts>[^@/?]*)(?:/(?P<database>[^/?]*))?(?:\?(?P<query>.*))?"
)

_HOST = re.compile(r"(\[[^\[\]\s]+\]|[^:\[\]\s]*)(?::(\d*))?")


def check_encoding(url: str) -> None:
    """Raise a `ValueError` if the user name or password has special characters without encoding."""
    _, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest)[0]
    if rest.count("@") > ("@" in authority) or re.search("%(?![0-9a-fA-F]{2})", authority):
        raise ValueError(
            "should have special characters in the user name and the password percent-encoded: "
            "%40 for @, %2F for /, %3F for ?, %23 for #, %25 for %"
        )


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Hosts, database, user and options of a connection to Postgres."""

    hosts: tuple[tuple[str, int], ...]
    """Hosts and ports in the order in which they are tried. A host may be a socket's folder."""

    database: str
    user: str
    password: str = field(repr=False)
    arguments: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL in libpq's form. Raises a `ValueError` that describes a valid one."""
        check_encoding(url)
        match = _URL.fullmatch(url.strip())
        if match is None or "#" in url:
            raise ValueError(f"should look like {EXAMPLE}")
        arguments = _arguments(match["query"] or "")
        given = {name: unquote(match[name] or "") for name in ("user", "password", "database")}
        user = arguments.get("user", given["user"]) or _system_user()
        address = cls(
            hosts=_hosts(match["hosts"], arguments),
            database=arguments.get("dbname", given["database"]) or user,
            user=user,
            password=arguments.get("password", given["password"]),
            arguments=arguments,
        )
        address._check_certificates()
        return address

    def __str__(self) -> str:
        """Return the database's name for error messages."""
        names = (
            host if host.startswith("/") else f"{f'[{host}]' if ':' in host else host}:{port}"
            for host, port in self.hosts
        )
        return f"the database at {', '.join(names)}"

    @property
    def connect_timeout_seconds(self) -> int:
        """Timeout for each host."""
        return int(self.arguments.get("connect_timeout", 0)) or CONNECT_TIMEOUT_SECONDS

    @property
    def session_attributes(self) -> tuple[str, ...]:
        """Kinds of server to connect to, in order of preference."""
        attributes = self.arguments.get("target_session_attrs", "any")
        return ("standby", "any") if attributes == "prefer-standby" else (attributes,)

    @property
    def startup_parameters(self) -> dict[str, str]:
        names = ("application_name", "options")
        return {name: self.arguments[name] for name in names if name in self.arguments}

    def tls_attempts(self, host: str) -> list[ssl.SSLContext | None]:
        """Return the TLS contexts to try, in order. None stands for a connection without TLS."""
        mode = self.arguments.get("sslmode", "prefer")
        if host.startswith("/") or mode == "disable":
            return [None]
        context = self._tls_context(mode)
        # If the URL names certificates, never connect without TLS.
        if mode not in ("allow", "prefer") or not self.arguments.keys().isdisjoint(FILES):
            return [context]
        return [None, context] if mode == "allow" else [context, None]

    def _tls_context(self, mode: str) -> ssl.SSLContext:
        root, certificate, key = (self.arguments.get(name) for name in FILES)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = mode == "verify-full" or root == "system"
        if root and root != "system":
            context.load_verify_locations(root)
        elif root or mode.startswith("verify"):
            context.load_default_certs()
        else:
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            # Without a password, OpenSSL would ask for it on the terminal.
            password = self.arguments.get("sslpassword", "")
            context.load_cert_chain(certificate, key, password=lambda: password)
        return context

    def _check_certificates(self) -> None:
        for name in FILES:
            path = self.arguments.get(name, "system")
            try:
                if path != "system":
                    with open(path, "rb"):  # noqa: PTH123 - `Path` would accept an empty name
                        pass
            except OSError as error:
                raise ValueError(
                    f"should name a file that can be read as its {name} ({error.strerror})"
                ) from None
        try:
            self._tls_context(self.arguments.get("sslmode", "prefer"))
        except ssl.SSLError:
            raise ValueError(
                f"should name PEM files that belong together as its {', '.join(FILES)}"
            ) from None


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ValueError(
            "should name a user, because the user of this process has no name"
        ) from None


def _arguments(query: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    arguments = {name: unquote(value) for name, _, value in pairs}
    if not arguments.keys() <= ARGUMENTS | IGNORED_ARGUMENTS:
        raise ValueError(f"should have no other arguments than {', '.join(sorted(ARGUMENTS))}")
    mode = arguments.pop("ssl", "")
    if mode:
        arguments.setdefault("sslmode", {"true": "require", "false": "disable"}.get(mode, mode))
    for name, values in CHOICES.items():
        if arguments.get(name, values[0]) not in values:
            raise ValueError(f"should have one of {', '.join(values)} as its {name}")
    if not re.fullmatch("[0-9]{1,3}", arguments.get("connect_timeout", "0")):
        raise ValueError("should have a connect_timeout in whole seconds")
    return arguments


def _hosts(text: str, arguments: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    parts = [_HOST.fullmatch(part) for part in text.split(",")]
    names = [unquote(part[1].strip("[]")) for part in parts if part]
    ports = [part[2] or "" for part in parts if part]
    if arguments.get("host"):
        names, ports = arguments["host"].split(","), [""]
    if arguments.get("port"):
        ports = arguments["port"].split(",")
    if len(ports) == 1:
        ports *= len(names)
    if (
        not all(parts)
        or len(ports) != len(names)
        or not all(re.fullmatch("|[0-9]{1,5}", port) for port in ports)
        or not all(0 < int(port or 5432) <= 65535 for port in ports)
    ):
        raise ValueError(
            f"should look like {EXAMPLE}; several hosts look like host1:5432,host2:5433, "
            "and a socket's folder like %2Frun%2Fpostgresql"
        )
    return tuple(
        (host, int(port or 5432))
        for name, port in zip(names, ports, strict=True)
        for host in ([name] if name else DEFAULT_HOSTS)
    )

"""Fetches files on this machine and on other servers, for the file source."""

import asyncio
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from ssl import SSLContext
from typing import BinaryIO, Protocol, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from app.dumps.stores.folder import open_regular
from app.errors import SourceDayError, SourceError, SourceUnavailableError
from app.setting_types import is_secure

Result = TypeVar("Result")

TIMEOUT_SECONDS = 30.0
"""Timeout for connecting, and for each part of a response."""

MAX_REDIRECTS = 5

LONGEST_PAUSE_SECONDS = 60.0
"""Maximum time that a server's `Retry-After` delays the next attempt."""

PASSING_STATUSES = {408, 425, 429}
"""Statuses below 500 that are temporary."""

NAT64 = ip_network("64:ff9b::/96")
GLOBAL_UNICAST = ip_network("2000::/3")
"""All IPv6 addresses that are assigned for the Internet, except those of NAT64."""

SHOWN_CHARACTERS = 200


class MissingFileError(Exception):
    """There is no file at an address."""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    file: BinaryIO
    """The file, positioned at its beginning."""

    bytes: int
    sha256: str
    is_public: bool = False
    """True if it came from a server on the Internet."""


class Files(Protocol):
    async def fetch(self, address: str, max_bytes: int, *, only_public: bool) -> FetchedFile:
        """Fetch a whole file. `only_public` forbids private addresses. It is set if a server on the
        Internet has chosen the file's address.

        Raises `SourceError`, and `MissingFileError` if the file does not exist.
        """


class LocalFiles:
    async def fetch(self, address: str, max_bytes: int, *, only_public: bool) -> FetchedFile:
        del only_public
        try:
            file = open_regular(Path(address), follows_links=True)
            with closed_on_error(file):
                check_size(os.fstat(file.fileno()).st_size, max_bytes, address)
                digest = await in_thread(lambda: hashlib.file_digest(file, "sha256").hexdigest())
                size = file.tell()
                file.seek(0)
                return FetchedFile(file, size, digest)
        except FileNotFoundError:
            raise MissingFileError from None
        except OSError as error:
            raise SourceError(f"{address} can't be read: {error.strerror or error}") from error


def check_size(size: int, max_bytes: int, address: str) -> None:
    if size > max_bytes:
        raise SourceDayError(f"{shown(address)} has more than {max_bytes:,} bytes")


def shown(address: str) -> str:
    """Return an address for messages, without parts that may be secret."""
    if "://" not in address:
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{address.partition('://')[0]}://"
    public = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return public[:SHOWN_CHARACTERS]


@contextmanager
def closed_on_error(file: BinaryIO) -> Iterator[BinaryIO]:
    try:
        yield file
    except BaseException:
        file.close()
        raise


async def in_thread(function: Callable[[], Result]) -> Result:
    """Run a function that reads from the disk in a thread. If the task is cancelled, wait until the
    function returns, so that the caller can close the files that it uses.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


class WebFiles:
    """Downloads files over HTTPS to temporary files. Plain HTTP may be allowed for this machine."""

    def __init__(self, *, allows_http: bool) -> None:
        self._allows_http = allows_http
        self._tls = httpx.create_ssl_context()

    async def fetch(self, address: str, max_bytes: int, *, only_public: bool) -> FetchedFile:
        transport = _CheckedTransport(only_public=only_public, tls=self._tls)
        client = httpx.AsyncClient(
            transport=transport,
            timeout=TIMEOUT_SECONDS,
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            headers={
                # Sizes and checksums are those of the uncompressed file.
                "Accept-Encoding": "identity",
                "User-Agent": f"pypi-stats-api/{version('pypi-stats-api')}",
            },
            event_hooks={"request": [self._check_secure]},
        )
        place = shown(address)
        try:
            async with client, client.stream("GET", address) as response:
                await _check_status(response, place)
                return await _save(response, max_bytes, address, is_public=transport.only_public)
        # A host name that can't be encoded is a `UnicodeError`.
        except (
            *(httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects),
            UnicodeError,
        ) as error:
            raise SourceError(f"{place}: {error!s:.200}") from error
        except httpx.TransportError as error:
            reason = f"{error!s:.200}" or type(error).__name__
            raise SourceUnavailableError(f"{place}: {reason}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise SourceError(f"{place} can't be stored: {reason}") from error

    async def _check_secure(self, request: httpx.Request) -> None:
        """Check the address of each request. A redirect must not lead from another machine to this
        one.
        """
        is_allowed = request.url.scheme == "https" or self._allows_http
        if not (is_allowed and is_secure(str(request.url))):
            raise SourceError(
                f"{shown(str(request.url))}: files are only fetched from https://, or from http:// "
                "on this machine"
            )


class _CheckedTransport(httpx.AsyncBaseTransport):
    """Refuses a private address if a list or a redirect of a server on the Internet names it.

    It resolves each host once and connects to the address that it has checked, so that a name
    server can't return another one in between.
    """

    def __init__(self, *, only_public: bool, tls: SSLContext) -> None:
        self.only_public = only_public
        self._tls = tls
        self._transports: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        proxy = _proxy_for(url)
        addresses = await _resolved(url)
        are_public = [is_public(address) for address in addresses]
        if not all(are_public):
            if self.only_public:
                raise SourceDayError(
                    f"{shown(str(url))} is in a private network: it was refused, because a list or "
                    "redirect from the Internet names it"
                )
            # Connect directly, because a proxy would look for the host in its own network.
            proxy = None
        elif not addresses and not proxy:
            raise httpx.ConnectError(f"there is no host {url.host}")
        self.only_public = self.only_public or any(are_public) or not addresses
        try:
            transport = httpx.AsyncHTTPTransport(verify=self._tls, proxy=proxy)
        except (ImportError, ValueError, httpx.InvalidURL):
            raise SourceError(
                "HTTPS_PROXY or ALL_PROXY should look like http://host:3128; other kinds of "
                "proxies, such as SOCKS, are not supported"
            ) from None
        self._transports.append(transport)
        if proxy:
            return await transport.handle_async_request(request)
        error: httpx.TransportError | None = None
        for address in addresses:
            try:
                return await transport.handle_async_request(_directed(request, address))
            except httpx.ConnectError as refused:
                error = refused
        raise error or httpx.ConnectError(f"there is no host {url.host}")

    async def aclose(self) -> None:
        for transport in self._transports:
            await transport.aclose()


def _proxy_for(url: httpx.URL) -> str | None:
    """Return the proxy for a URL from the environment. As in curl, its scheme may be omitted."""
    proxies = getproxies()
    proxy = None if proxy_bypass(url.host) else proxies.get(url.scheme, proxies.get("all"))
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _directed(request: httpx.Request, address: str) -> httpx.Request:
    """Return the request with an address as host. The certificate must be of the original host."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        extensions={**request.extensions, "sni_hostname": request.url.raw_host.decode()},
    )


async def _resolved(url: httpx.URL) -> list[str]:
    """Return the addresses of a host, or none if this machine can't resolve it."""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.raw_host.decode(), port, type=socket.SOCK_STREAM
        )
    except socket.gaierror:
        return []
    return [str(address[4][0]) for address in found]


def is_public(text: str) -> bool:
    """Return True if an address is on the Internet. An IPv4 address embedded in it decides."""
    address = ip_address(text)
    inner: IPv4Address | IPv6Address | None = None
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = IPv4Address(address.packed[-4:])
    if inner is not None:
        return is_public(str(inner))
    is_assigned = isinstance(address, IPv4Address) or address in GLOBAL_UNICAST
    return is_assigned and address.is_global and not address.is_multicast


async def _save(
    response: httpx.Response, max_bytes: int, address: str, *, is_public: bool
) -> FetchedFile:
    digest, size = hashlib.sha256(), 0
    # The caller closes the file.
    new = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115
    with closed_on_error(new) as file:
        async for chunk in response.aiter_raw(2**20):
            size += len(chunk)
            check_size(size, max_bytes, address)
            digest.update(chunk)
            file.write(chunk)
        file.seek(0)
        return FetchedFile(file, size, digest.hexdigest(), is_public)


async def _check_status(response: httpx.Response, place: str) -> None:
    status = response.status_code
    if status in (404, 410):
        raise MissingFileError
    if status in PASSING_STATUSES or status >= 500:
        pause = response.headers.get("Retry-After", "")
        if pause.isascii() and pause.isdecimal():
            await asyncio.sleep(min(float(pause), LONGEST_PAUSE_SECONDS))
        raise SourceUnavailableError(f"{place} answers with status {status}")
    if status != 200:
        raise SourceError(f"{place} answers with status {status}")
    if "Content-Encoding" in response.headers:
        raise SourceError(f"{place} responds with an encoding that was not requested")

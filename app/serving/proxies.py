"""Addresses of clients behind trusted proxies."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network

LOCAL = "local"
"""Client of a connection that has no address, such as a Unix socket."""


class TrustedProxies:
    """The proxies whose `X-Forwarded-For` header names the client."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(network) for network in networks]
        self._is_trusted = lru_cache(maxsize=4096)(self._contains)

    def client(self, peer: str, forwarded_for: bytes | None) -> str:
        """Return the address of the client of a connection from `peer`.

        It is the last address in the header that is not a trusted proxy. An entry that is not an
        address counts as the proxy that forwarded it.
        """
        client = peer
        if self._networks and forwarded_for is not None:
            entries = forwarded_for.decode("latin-1").split(",")
            while entries and self._is_trusted(client):
                entry = _address(entries.pop())
                if entry is None:
                    break
                client = entry
        return client

    def _contains(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _address(entry: str) -> str | None:
    host = entry.strip().removeprefix("[").partition("]")[0]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return str(ip_address(host))
    except ValueError:
        return None

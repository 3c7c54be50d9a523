"""Addresses of clients, also of those behind trusted proxies."""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network

PREFIX_PATTERN = r"(?=.{0,200}$)(/[\w.~-]+){0,20}"
"""Pattern of valid prefixes. Their length is limited, because pages repeat the prefix 60 times."""

IPV6_CLIENT_BITS = 64
"""Prefix length of the network that a provider assigns to one IPv6 customer."""


class TrustedProxies:
    """The proxies whose `X-Forwarded-For` header names the client."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(network) for network in networks]
        self.is_trusted = lru_cache(maxsize=4096)(self._contains)

    def client(self, peer: str, forwarded_for: bytes | None) -> str:
        """Return the address of the client of a connection from `peer`.

        It is the last address in the header that is not a trusted proxy. If an entry is not an
        address, the client is the proxy that sent the entry.
        """
        client = peer
        if forwarded_for is not None:
            rest = forwarded_for.decode("latin-1")
            while rest and self.is_trusted(client):
                rest, _, last = rest.rpartition(",")
                entry = _address(last)
                if entry is None:
                    break
                client = entry
        return client

    @staticmethod
    def prefix(forwarded_prefix: bytes | None) -> str | None:
        """Return the prefix of paths that the proxies in front have removed, or None if there is no
        valid one. Each proxy may have added an entry.
        """
        if forwarded_prefix is None:
            return None
        prefix = re.sub(r"/?\s*,\s*", "", forwarded_prefix.decode("latin-1").strip()).rstrip("/")
        return prefix if re.fullmatch(PREFIX_PATTERN, prefix, re.ASCII) else None

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
    # The zone of an IPv6 address can be any text, and means something to one machine only.
    if "%" in host:
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    # Proxies that listen on a dual-stack socket write IPv4 addresses as IPv6 ones.
    return str(getattr(address, "ipv4_mapped", None) or address)


@lru_cache(maxsize=4096)
def client_key(host: str) -> str:
    """Return the key under which a client is counted: an IPv4 address, or an IPv6 network."""
    try:
        address = ip_address(host)
    except ValueError:
        # A connection without an address, such as a Unix socket.
        return "local"
    if isinstance(address, IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), IPV6_CLIENT_BITS), strict=False))

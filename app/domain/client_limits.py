"""Rate limits of known clients: the setting `CLIENT_RATE_LIMITS`."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from limits import RateLimitItem, parse_many

EXAMPLE = "203.0.113.0/24=1000/minute,key:SHA256=none"

_KEY = re.compile(r"key:([0-9a-f]{64})")


class ClientLimits(NamedTuple):
    """Limits of a known client, which is each address of a network, or the owner of a key."""

    client: IPv4Network | IPv6Network | bytes
    """A network, or the SHA-256 digest of a key."""

    items: tuple[RateLimitItem, ...]
    """The limits. Empty if the client is not limited."""


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Parse a network. Raises a `ValueError` that describes valid networks."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        example = "10.0.0.1,192.168.0.0/16,fd00::/8"
        raise ValueError(f"should be addresses and networks such as {example}") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped:
        raise ValueError(f"should have the IPv4 form, such as {mapped}, for {network}")
    address = text.partition("/")[0]
    if ip_address(address) != network.network_address:
        raise ValueError(f"should have {network} for that network, or {address} for one address")
    return network


def parse_limits(text: str) -> tuple[RateLimitItem, ...]:
    """Parse limits such as `10/second;300/minute`. Return the shortest period first. Raises
    `ValueError`.
    """
    items = sorted(parse_many(text), key=RateLimitItem.get_expiry) if text else []
    if any(item.amount <= 0 for item in items):
        raise ValueError("a limit should allow some requests")
    return tuple(items)


def parse_client_limits(text: str) -> list[ClientLimits]:
    """Parse a text such as `EXAMPLE`. Raises a `ValueError` that contains no part of the text,
    because the operator may have written a key instead of its hash.
    """
    clients = []
    for number, entry in enumerate(text.lower().split(","), 1):
        name, _, limits = (part.strip() for part in entry.partition("="))
        try:
            key = _KEY.fullmatch(name)
            client = bytes.fromhex(key[1]) if key else ip_network(name, strict=False)
            items = parse_limits("" if limits == "none" else limits or "missing")
        except ValueError:
            raise ValueError(
                f"should look like {EXAMPLE}, separated by commas, which entry {number} does not"
            ) from None
        clients.append(ClientLimits(client if key else parse_network(name), items))
    return clients

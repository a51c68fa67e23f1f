"""Names to addresses, without the event loop's threads; and which addresses an HTTP check may connect to."""

import socket
from collections.abc import Collection
from enum import IntEnum
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from otel_health.compose import blocking

Address = IPv4Address | IPv6Address


class ForbiddenAddress(Exception):
    """A target led to an address that a check never connects to."""


class Zone(IntEnum):
    """How far inside an address lies."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    FORBIDDEN = 3
    """Link-local, metadata of a cloud, multicast, unspecified, reserved: never a service that one checks."""


def _networks(*networks: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(map(ip_network, networks))


# In the order in which they are asked: the metadata services of Azure, Alibaba, AWS, Google and Scaleway lie inside
# networks that are public or private otherwise (Oracle's is in 192.0.0.0/24).
_NETWORKS: Final = (
    (Zone.FORBIDDEN, _networks("0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4")),
    (Zone.FORBIDDEN, _networks("168.63.129.16/32", "100.100.100.200/32")),
    (Zone.FORBIDDEN, _networks("fd00:ec2::/32", "fd20:ce::/32", "fd00:42::/32")),
    (Zone.LOOPBACK, _networks("127.0.0.0/8", "::1/128")),
    (Zone.FORBIDDEN, _networks("::/96", "fe80::/10", "fec0::/10", "ff00::/8", "2001::/32", "100::/64")),
    (Zone.PRIVATE, _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15")),
    (Zone.PRIVATE, _networks("fc00::/7")),
)
_NAT64: Final = _networks("64:ff9b::/96", "64:ff9b:1::/48")


def zone(address: Address) -> Zone:
    """Return the zone of an address; one that carries another address has that one's."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in _NAT64):
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return zone(inner)
    for found, networks in _NETWORKS:
        if any(address in network for network in networks):
            return found
    return Zone.PUBLIC


def literal(host: str) -> Address | None:
    """Return the address that a host is written as; None if it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


async def resolve(host: str, port: int) -> tuple[Address, ...]:
    """Return the addresses of a host in the order of the system's preference, at least one.

    Raises:
        OSError: The name does not resolve (`socket.gaierror`), or not in time (TimeoutError).
    """
    address = literal(host)
    return (address,) if address is not None else await blocking("resolve", partial(look_up, host, port))


def look_up(host: str, port: int | None = None) -> tuple[Address, ...]:
    """Ask the system's resolver; it blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A zone index, as in fe80::1%eth0, is the system's hint of the interface; what it names is link-local anyway.
    return tuple(dict.fromkeys(ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found))


def innermost(addresses: Collection[Address]) -> Zone:
    """Return the zone of the address that lies furthest inside: one bad address spoils an answer of many."""
    return max(map(zone, addresses))

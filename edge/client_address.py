"""Whose request it is, by address: of the connection, or, behind proxies that we trust, as they tell it.

Anybody can send `X-Forwarded-For`, so it is read from its end, where the proxy next to us has written, and only as far
as the proxies are ours.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from aiohttp import web

_HEADER: Final = "X-Forwarded-For"
# Connections of our proxies, and of the clients of one busy moment.
_REMEMBERED: Final = 65_536

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_networks(text: str) -> tuple[Network, ...]:
    """Reads "10.1.0.0/16, 127.0.0.1"; a bare address is that one. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


class ClientAddresses:
    """Finds the address of a request's client. `trusted` are the networks of the proxies in front of us."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = trusted
        self._is_proxy = lru_cache(_REMEMBERED)(self._look_up)

    def of(self, request: web.Request) -> str:
        """The address, without a port; "" where the connection is gone already."""
        peer = _peer(request)
        if not self._trusted or not self._is_proxy(peer):
            return peer
        return self._last_stranger(peer, request.headers.getall(_HEADER, ()))

    def _last_stranger(self, peer: str, headers: Iterable[str]) -> str:
        """The nearest hop that is not ours; the farthest of ours when all are, or when a hop is no address."""
        nearest = peer
        for hop in reversed(",".join(headers).split(",")):
            address = _canonical(hop.strip())
            if not address:
                break
            nearest = address
            if not self._is_proxy(address):
                break
        return nearest

    def _look_up(self, text: str) -> bool:
        address = _parse(text)
        return address is not None and any(address in network for network in self._trusted)


def _peer(request: web.Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    # A socket of the file system has no address.
    return _canonical(peer[0]) if isinstance(peer, tuple) else ""


@lru_cache(_REMEMBERED)
def _canonical(text: str) -> str:
    """One spelling for each address; "" for what is none."""
    address = _parse(text)
    return "" if address is None else str(address)


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket that takes both families tells an IPv4 client as ::ffff:192.0.2.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address

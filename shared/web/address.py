"""From where somebody asks. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

MAX_FORWARDED = 32


def client_address(peer: str | None, forwarded_for: Sequence[str], *, proxies: int) -> str | None:
    """The address of a client.

    Args:
        peer: The other end of the connection.
        forwarded_for: The values of all ``X-Forwarded-For`` headers, in their order.
        proxies: How many proxies of our own stand in front. Each adds the address that it saw, so the client's is that
            many places from the right; what stands further left is the client's own word. 0: the header is ignored.

    Returns:
        The peer, where the header does not hold an address in that place.
    """
    if proxies == 0:
        return peer
    told = [part.strip() for value in forwarded_for for part in value.split(",")]
    if len(told) < proxies or len(told) > MAX_FORWARDED:
        return peer
    try:
        return str(ipaddress.ip_address(told[-proxies].strip("[]")))
    except ValueError:
        return peer

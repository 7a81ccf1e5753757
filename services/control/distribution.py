"""Asking the distribution whether it has a payload, before a changeset that needs it is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import structlog

from shared.errors import Conflict, Unavailable

_log = structlog.get_logger()

TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0, connect=3.0)


async def check_payloads(
    session: aiohttp.ClientSession, distribution_url: str, token: str, payloads: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse payloads that the distribution does not have, by ``HEAD /payloads/<sha256>``.

    Args:
        session: Any session.
        distribution_url: Where the distribution is.
        token: The operator's token: what is not published yet is shown to operators only.
        payloads: ``sha256``, ``name`` and ``size`` of each.

    Raises:
        Conflict: One is missing or has another size.
        Unavailable: The distribution did not answer, or not as it should.
    """
    for payload in payloads:
        url = f"{distribution_url.rstrip('/')}/payloads/{payload['sha256']}"
        try:
            async with session.head(
                url, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT, allow_redirects=False
            ) as answer:
                status, size = answer.status, answer.headers.get("Content-Length")
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise Unavailable(
                "the distribution does not answer, so payloads could not be checked: try again, or publish unchecked",
                retry_after_s=5.0,
            ) from fault
        if status == HTTPStatus.NOT_FOUND:
            raise Conflict(
                f"the distribution does not have {payload['name']} ({payload['sha256'][:12]}): upload it with "
                "`uneventful changeset payload add`, or publish unchecked",
                details={"sha256": payload["sha256"]},
            )
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            # A distribution that does not tell what it has: nodes find out, and their failures are no rollbacks.
            _log.warning("publish.unchecked", distribution_url=distribution_url)
            return
        if status != HTTPStatus.OK:
            raise Unavailable(
                f"the distribution answered {status} when asked for {payload['name']}: try again, or publish unchecked",
                retry_after_s=5.0,
            )
        if size is not None and size != str(payload["size"]):
            raise Conflict(
                f"the distribution has {payload['name']} with {size} bytes, not {payload['size']}: correct the size"
            )

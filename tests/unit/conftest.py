"""Unit tests do no I/O; in an event loop, blocking calls made by our own code raise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True, scope="module")
def nothing_blocks_the_event_loop() -> Iterator[None]:
    """A blocking call in a coroutine of ours raises ``BlockingError`` instead of holding everybody up."""
    with blockbuster_ctx(["services", "shared"]):
        yield

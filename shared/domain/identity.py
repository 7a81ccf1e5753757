"""How nodes are named."""

from __future__ import annotations

import uuid


def node_id_for(application_id: uuid.UUID, machine_id: str) -> uuid.UUID:
    """The id of a machine within an application: the same on every replica, without a look-up.

    Args:
        application_id: The application the machine takes updates of.
        machine_id: What the machine calls itself (``/etc/machine-id``, 32 hex digits; other clients send other forms).
    """
    return uuid.uuid5(application_id, machine_id)

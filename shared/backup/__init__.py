"""Backup and restore of Uneventful: its database with the ledger, the payload store, and files beside them.

A backup is taken while everything runs: the database in one snapshot, then the payloads which that snapshot lists.
"""

from __future__ import annotations

from shared.backup.create import create
from shared.backup.manifest import FORMAT, Kept, Manifest, Payload, Progress, Table
from shared.backup.place import open_backup
from shared.backup.restore import Restored, check, restore

__all__ = [
    "FORMAT",
    "Kept",
    "Manifest",
    "Payload",
    "Progress",
    "Restored",
    "Table",
    "check",
    "create",
    "open_backup",
    "restore",
]

"""What a backup says of itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, TypeAlias

import msgspec

from shared.errors import InvalidInput

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024

Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Identifier: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}\Z")]
# Never absolute, never upwards: a part begins with no dot.
FileName: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*){0,7}\Z", max_length=240)
]


def table_file(schema: str, name: str) -> str:
    """Where in a backup a table is."""
    return f"database/{schema}.{name}.gz"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a table, as Postgres' COPY writes them, in gzip. ``sha256`` and ``size`` are of the file."""

    schema: Identifier
    name: Identifier
    columns: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=256)]
    rows: Count
    sha256: Digest
    size: Count

    @property
    def file(self) -> str:
        """Where in the backup it is."""
        return table_file(self.schema, self.name)


class Counter(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sequence stands."""

    schema: Identifier
    name: Identifier
    last_value: int


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A migration that the database had."""

    number: Annotated[int, msgspec.Meta(ge=1, le=9_999)]
    filename: FileName
    sha256: Digest


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """A payload of the store, under its own digest."""

    sha256: Digest
    size: Count

    @property
    def file(self) -> str:
        """Where in the backup it is, as in the store."""
        return f"payloads/sha256/{self.sha256[:2]}/{self.sha256}"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is kept beside: a key, a token, a setting."""

    name: FileName
    sha256: Digest
    size: Count
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)] = 0o600

    @property
    def file(self) -> str:
        """Where in the backup it is."""
        return f"files/{self.name}"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All of a backup.

    Attributes:
        program: The version of Uneventful that made it.
        migrations: What made the schema, in order; the same is made before rows come in.
        ledger_blocks: Numbers of the ledger's partitions.
        ledger_seq: Where the ledger ends.
        ledger_hash: The hash there, in hexadecimal.
        missing: Payloads that changesets list and that were not in the store.
    """

    format: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)]
    program: Annotated[str, msgspec.Meta(max_length=64)]
    made_at: datetime
    migrations: Annotated[tuple[Applied, ...], msgspec.Meta(min_length=1, max_length=9_999)]
    tables: Annotated[tuple[Table, ...], msgspec.Meta(max_length=1_000)]
    sequences: Annotated[tuple[Counter, ...], msgspec.Meta(max_length=1_000)] = ()
    ledger_blocks: Annotated[tuple[Count, ...], msgspec.Meta(max_length=100_000)] = ()
    ledger_seq: Count
    ledger_hash: Digest
    payloads: Annotated[tuple[Payload, ...], msgspec.Meta(max_length=1_000_000)] = ()
    missing: tuple[Digest, ...] = ()
    files: Annotated[tuple[Kept, ...], msgspec.Meta(max_length=10_000)] = ()
    settings: dict[str, str] = {}

    @property
    def version(self) -> int:
        """The schema's version."""
        return self.migrations[-1].number

    @property
    def contents(self) -> dict[str, tuple[str, int]]:
        """Each file of the backup with its SHA-256 and its size."""
        parts: tuple[Table | Payload | Kept, ...] = (*self.tables, *self.payloads, *self.files)
        return {part.file: (part.sha256, part.size) for part in parts}

    def encode(self) -> bytes:
        """As it is written."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read_manifest(raw: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        InvalidInput: It is none that this version can read.
    """
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as fault:
        raise InvalidInput(f"the backup's {MANIFEST} cannot be read: {fault}") from fault


def safe_settings(environ: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The settings in an environment, for the record; never what could be a secret or hold one."""
    secret = ("URL", "TOKEN", "SECRET", "PASSWORD", "KEY", "DSN", "CREDENTIAL")
    return {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(prefix) and not any(word in name for word in secret) and "@" not in value
    }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: of ``what`` so many of so many."""

    what: str
    done: int
    total: int


def load_order(names: Sequence[str], references: Iterable[tuple[str, str]]) -> list[str]:
    """Tables so that each comes after those that it refers to.

    Args:
        names: All tables.
        references: Pairs of a table and one that it refers to; of itself does not matter.

    Raises:
        InvalidInput: Tables refer to each other in a ring.
    """
    needs: dict[str, set[str]] = {name: set() for name in names}
    for child, parent in references:
        if child != parent and child in needs and parent in needs:
            needs[child].add(parent)
    order: list[str] = []
    while needs:
        free = sorted(name for name, parents in needs.items() if not parents)
        if not free:
            raise InvalidInput(f"these tables refer to each other in a ring: {', '.join(sorted(needs))}")
        order += free
        for name in free:
            del needs[name]
        for parents in needs.values():
            parents.difference_update(free)
    return order

"""Signing keys: their public halves and the lists of those in force; and the keys of testers."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Collection
from typing import Final

from services.control import requests
from services.control.acting import ACTING
from services.control.key_files import KeyFiles
from services.control.signing import SigningKey, make_key, next_list, public_pem, read_public_pem, sign_with
from services.control.store.base import SOURCE, Connection, Database, Made, Row, rows_of
from shared.db import Queries
from shared.domain.manifest import PublicKey, public_key
from shared.errors import Conflict, Fault, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "keys.sql")


class Keys:
    """The keys that changesets are signed with, and the lists by which nodes follow their change.

    Args:
        database: Public halves and lists.
        files: Private halves.
        random: Makes them.
    """

    def __init__(
        self, database: Database, files: KeyFiles, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._database = database
        self._files = files
        self._random = random

    async def listing(self) -> list[Row]:
        """All keys, the oldest first; ``here``: this control has the private half and can sign with it."""
        private = await asyncio.to_thread(self._files.read)
        rows = rows_of(await self._database.pool.fetch(QUERIES["keys"]))
        return [{**_shown(row), "here": row["key_id"] in private} for row in rows]

    async def lists(self, after: int, limit: int) -> list[Row]:
        """Lists of keys after a version, in order."""
        return [
            {**row, "document": base64.b64encode(row["document"]).decode()}
            for row in rows_of(await self._database.pool.fetch(QUERIES["lists"], after, limit))
        ]

    async def sign(self, connection: Connection, document: bytes) -> list[dict[str, str]]:
        """The signatures of all keys that are in force and here; none where no key was ever made.

        Raises:
            Conflict: Keys are in force, and the private half of none of them is here.
        """
        await connection.execute(QUERIES["share_keys"])
        in_force = await self._in_force(connection)
        private = await asyncio.to_thread(self._files.read)
        signers = [key for key_id, key in private.items() if key_id in in_force]
        if in_force and not signers:
            raise Conflict(
                f"none of the keys in force ({', '.join(in_force)}) is in control's key directory: nodes would refuse "
                "what is not signed. Put one there, or set UNEVENTFUL_KEY_DIR to where they are"
            )
        return sign_with(document, signers)

    async def begin(self) -> PublicKey | None:
        """Make the first key where a directory is configured and no key was ever made; None where there are some.

        A key that lies in the directory already becomes the first one.
        """
        if not self._files.configured:
            return None
        async with self._database.plain() as connection:
            await connection.execute(QUERIES["lock_keys"])
            if await connection.fetchval(QUERIES["last_list"]):
                return None
            found = await asyncio.to_thread(self._files.read)
            key = min(found.values(), key=lambda key: key.key_id) if found else await self._make()
            await self._change(connection, add=key, retire=(), reason="there was none", by=SOURCE)
            return key.public

    async def make(self, *, reason: str, by: str) -> Row:
        """Make a key beside those in force: the next list has it, and everything published is signed by it too.

        Raises:
            Conflict: No directory is configured, or no key that could sign the new list is here.
        """
        async with self._database.plain() as connection:
            await connection.execute(QUERIES["lock_keys"])
            return await self._change(connection, add=await self._make(), retire=(), reason=reason, by=by)

    async def rotate(self, *, reason: str, by: str) -> Row:
        """Make a key and retire all others.

        Raises:
            Conflict: As for `make`.
        """
        async with self._database.plain() as connection:
            await connection.execute(QUERIES["lock_keys"])
            retire = await self._in_force(connection)
            return await self._change(connection, add=await self._make(), retire=retire, reason=reason, by=by)

    async def retire(self, key_id: str, *, reason: str, by: str) -> Row:
        """Take a key out of the list; nothing is signed with it any more, and nodes stop believing it.

        Raises:
            NotFound: There is no such key.
            Conflict: It is retired, or the last one in force, or no key that could sign the new list is here.
        """
        async with self._database.plain() as connection:
            await connection.execute(QUERIES["lock_keys"])
            if key_id not in {row["key_id"] for row in await connection.fetch(QUERIES["keys"])}:
                raise NotFound(f"there is no key {key_id}")
            if key_id not in (in_force := await self._in_force(connection)):
                raise Conflict(f"the key {key_id} is retired already")
            if len(in_force) == 1:
                raise Conflict(f"the key {key_id} is the only one in force: rotate instead, `uneventful keys rotate`")
            return await self._change(connection, add=None, retire=(key_id,), reason=reason, by=by)

    async def _make(self) -> SigningKey:
        key = make_key(self._random)
        acting = ACTING.get()
        if acting is not None and acting.dry_run:
            return key
        # Before the database knows it: a key that nobody knows is harmless, one that nobody has is not.
        await asyncio.to_thread(self._files.write, key)
        return key

    async def _in_force(self, connection: Connection) -> dict[str, PublicKey]:
        return {
            row["key_id"]: public_key(row["public_key"]) for row in await connection.fetch(QUERIES["keys_in_force"])
        }

    async def _change(
        self, connection: Connection, *, add: SigningKey | None, retire: Collection[str], reason: str, by: str
    ) -> Row:
        """Make the next list, signed by keys of the one before it; everything published is signed by the new key."""
        in_force = await self._in_force(connection)
        private = await asyncio.to_thread(self._files.read)
        signers = {key_id: key for key_id, key in private.items() if key_id in in_force}
        version: int = await connection.fetchval(QUERIES["last_list"])
        if version and not signers:
            raise Conflict(
                f"none of the keys in force ({', '.join(in_force)}) is in control's key directory: nodes would not "
                "believe a list that none of them signed. Put one there first"
            )
        now = self._database.clock.now()
        members = {key_id: key for key_id, key in in_force.items() if key_id not in retire}
        if add is not None:
            members[add.key_id] = add.public
            signers[add.key_id] = add
            await connection.execute(QUERIES["add_key"], add.key_id, add.public.raw, now, by)
            await self._sign_again(connection, add)
        await connection.execute(QUERIES["retire_keys"], list(retire), now)
        made = next_list(version, members, signers=signers.values(), made_at=now)
        await connection.execute(QUERIES["add_list"], made.version, made.document, made.signatures, now, by)
        data = types.KeysChanged(
            version=made.version,
            key_ids=tuple(sorted(members)),
            by=by,
            added=None if add is None else add.key_id,
            retired=min(retire) if len(retire) == 1 else None,
            reason=reason,
        )
        await append(connection, [self._database.event(data, f"keys/{made.version}", partition_key="keys")])
        return {
            "version": made.version,
            "document": base64.b64encode(made.document).decode(),
            "signatures": made.signatures,
            "made_at": now,
            "made_by": by,
        }

    async def _sign_again(self, connection: Connection, key: SigningKey) -> None:
        signed = [
            (row["changeset_id"], sign_with(row["manifest"], [key]))
            for row in await connection.fetch(QUERIES["signed_changesets"])
        ]
        await connection.executemany(QUERIES["add_signature"], signed)

    # Testers

    async def attesters(self) -> list[Row]:
        """Testers' keys, the oldest first."""
        return [_attester(row) for row in rows_of(await self._database.pool.fetch(QUERIES["attesters"]))]

    async def attester(self, connection: Connection, key_id: str) -> Row | None:
        """A tester's key that is trusted; None where there is none."""
        row = await connection.fetchrow(QUERIES["attester"], key_id)
        return None if row is None else dict(row)

    async def trust(self, asked: requests.NewAttester, *, by: str) -> Made:
        """Trust a tester's key.

        Raises:
            InvalidInput: It is no Ed25519 key in PEM.
            Conflict: It is another tester's.
        """
        key = read_public_pem(asked.public_key)
        async with self._database.plain() as connection:
            known = await connection.fetchrow(QUERIES["lock_attester"], key.key_id)
            if known is not None and known["distrusted_at"] is None:
                if known["name"] != asked.name:
                    raise Conflict(f"the key {key.key_id} is that of {known['name']}: each tester needs one of its own")
                return Made(await self._one_attester(connection, key.key_id), new=False)
            now = self._database.clock.now()
            await connection.execute(QUERIES["trust"], key.key_id, asked.name, key.raw, now, by)
            await self._tell(connection, key.key_id, asked.name, asked.reason, by, trusted=True)
            return Made(await self._one_attester(connection, key.key_id), new=True)

    async def distrust(self, key_id: str, *, reason: str, by: str) -> Row:
        """Believe a tester's key no longer; nothing is changed where it is so already.

        What it signed before stays attached, and is shown as signed by a key that is not trusted any more.

        Raises:
            NotFound: There is no such key.
        """
        async with self._database.plain() as connection:
            known = await connection.fetchrow(QUERIES["lock_attester"], key_id)
            if known is None:
                raise NotFound(f"there is no tester's key {key_id}")
            if known["distrusted_at"] is None:
                await connection.execute(QUERIES["distrust"], key_id, self._database.clock.now())
                await self._tell(connection, key_id, known["name"], reason, by, trusted=False)
            return await self._one_attester(connection, key_id)

    async def _tell(
        self, connection: Connection, key_id: str, name: str, reason: str, by: str, *, trusted: bool
    ) -> None:
        data = types.AttesterChanged(name=name, key_id=key_id, by=by, reason=reason, trusted=trusted)
        await append(connection, [self._database.event(data, f"attesters/{key_id}")])

    async def _one_attester(self, connection: Connection, key_id: str) -> Row:
        rows = rows_of(await connection.fetch(QUERIES["attesters"]))
        for row in rows:
            if row["key_id"] == key_id:
                return _attester(row)
        raise Fault(f"the tester's key {key_id} is gone")


def _attester(row: Row) -> Row:
    return {**row, "public_key": public_pem(public_key(row["public_key"]))}


def _shown(row: Row) -> Row:
    return {**row, "public_key": public_pem(public_key(row["public_key"])), "in_force": row["retired_at"] is None}

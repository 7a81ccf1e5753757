"""What is signed: manifests of changesets, lists of keys, statements of tests; and how each is verified.

All three are canonical JSON (UTF-8, names sorted, no white space) with a ``format`` member that says which of them it
is, so that a signature over one never passes for another. Signatures are Ed25519 (RFC 8032) over exactly these bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.errors import InvalidInput

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
MANIFEST_FORMAT: Final = "uneventful.manifest.v1"
KEYS_FORMAT: Final = "uneventful.keys.v1"
ATTESTATION_FORMAT: Final = "uneventful.attestation.v1"

KeyId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key's signature, in standard base64."""

    key_id: KeyId
    signature: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{86}==\Z")]


class PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key: 32 bytes in standard base64."""

    key_id: KeyId
    public_key: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{43}=\Z")]

    @property
    def raw(self) -> bytes:
        """The 32 bytes."""
        return base64.b64decode(self.public_key)


class ManifestPayload(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the changeset; ``size`` in bytes."""

    name: Word
    role: Literal["main", "extra"]
    required: bool
    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=1)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a changeset is, as signed at publishing; fields that are not known are ignored.

    Attributes:
        minimum_version: Nodes below it cannot take the changeset.
        published_at: RFC 3339, UTC, with microseconds.
    """

    format: Literal["uneventful.manifest.v1"]
    application: Word
    version: Word
    arch: Word
    kind: Literal["image", "packages"]
    payloads: Annotated[tuple[ManifestPayload, ...], msgspec.Meta(min_length=1, max_length=64)]
    components: dict[str, str]
    packages: dict[str, str]
    minimum_version: str | None
    published_at: Word


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """The keys in force. A list is believed if a key of the list before it signed it."""

    format: Literal["uneventful.keys.v1"]
    version: Annotated[int, msgspec.Meta(ge=1)]
    made_at: Word
    keys: Annotated[tuple[PublicKey, ...], msgspec.Meta(min_length=1, max_length=64)]


T = TypeVar("T")


def key_id_of(public_key: bytes) -> str:
    """The id of a public key: the first 16 hexadecimal digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def public_key(raw: bytes) -> PublicKey:
    """A public key by its 32 bytes."""
    return PublicKey(key_id=key_id_of(raw), public_key=base64.b64encode(raw).decode())


def canonical(document: Mapping[str, Any]) -> bytes:
    """A document as it is signed: UTF-8, names sorted, no white space."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def moment(at: datetime) -> str:
    """A time as documents have it: RFC 3339 in UTC with microseconds, ending in ``Z``."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def manifest_document(
    *,
    application: str,
    version: str,
    arch: str,
    kind: str,
    payloads: Sequence[Mapping[str, Any]],
    components: Mapping[str, str],
    packages: Mapping[str, str],
    minimum_version: str | None,
    published_at: datetime,
) -> bytes:
    """The bytes of a changeset's manifest; payloads stand in their order, the main one first."""
    return canonical(
        {
            "format": MANIFEST_FORMAT,
            "application": application,
            "version": version,
            "arch": arch,
            "kind": kind,
            "payloads": [
                {name: payload[name] for name in ("name", "role", "required", "sha256", "size")} for payload in payloads
            ],
            "components": dict(components),
            "packages": dict(packages),
            "minimum_version": minimum_version,
            "published_at": moment(published_at),
        }
    )


def key_list_document(*, version: int, keys: Iterable[PublicKey], made_at: datetime) -> bytes:
    """The bytes of a list of keys, sorted by their ids."""
    return canonical(
        {
            "format": KEYS_FORMAT,
            "version": version,
            "made_at": moment(made_at),
            "keys": [msgspec.to_builtins(key) for key in sorted(keys, key=lambda key: key.key_id)],
        }
    )


def attestation_statement(*, application: str, version: str, arch: str, name: str, artefact_sha256: str) -> bytes:
    """What a tester signs: that this report (by its digest) is the result of this test of this release."""
    return canonical(
        {
            "format": ATTESTATION_FORMAT,
            "application": application,
            "version": version,
            "arch": arch,
            "name": name,
            "artefact_sha256": artefact_sha256,
        }
    )


def is_signed(document: bytes, signature: Signature, raw_key: bytes) -> bool:
    """Whether a key made a signature over exactly these bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(raw_key).verify(base64.b64decode(signature.signature), document)
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def verify_manifest(document: bytes, signatures: Iterable[Signature], keys: Iterable[PublicKey]) -> Manifest:
    """Read a manifest that one of the keys has signed.

    Raises:
        InvalidInput: No key of these signed it, or it is no manifest.
    """
    _refuse_unsigned(document, signatures, keys, "the manifest")
    return _read(document, Manifest, "manifest")


def read_key_list(document: bytes) -> KeyList:
    """Read a list of keys that is trusted for another cause than a signature: the first one.

    Raises:
        InvalidInput: It is no list of keys, or an id does not belong to its key.
    """
    read = _read(document, KeyList, "list of keys")
    for key in read.keys:
        if key.key_id != key_id_of(key.raw):
            raise InvalidInput(f"the list of keys calls a key {key.key_id}, but that is not its id")
    return read


def follow_key_list(known: KeyList, document: bytes, signatures: Iterable[Signature]) -> KeyList:
    """Take the next list of keys: its version is one more, and a key of the known list signed it.

    Raises:
        InvalidInput: It is none that may follow.
    """
    _refuse_unsigned(document, signatures, known.keys, "the list of keys")
    read = read_key_list(document)
    if read.version != known.version + 1:
        raise InvalidInput(f"list {known.version} of the keys is followed by {known.version + 1}, not {read.version}")
    return read


def _refuse_unsigned(document: bytes, signatures: Iterable[Signature], keys: Iterable[PublicKey], what: str) -> None:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise InvalidInput(f"{what} is larger than {MAX_DOCUMENT_BYTES} bytes")
    trusted = {key.key_id: key.raw for key in keys}
    if not any(
        signature.key_id in trusted and is_signed(document, signature, trusted[signature.key_id])
        for signature in signatures
    ):
        raise InvalidInput(f"{what} has no good signature of a trusted key ({', '.join(sorted(trusted)) or 'none'})")


def _read(document: bytes, kind: type[T], what: str) -> T:
    try:
        read: T = msgspec.json.decode(document, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise InvalidInput(f"this is no {what}: {fault}") from fault
    return read

"""Private keys in memory, and what is made with them. Pure: files are read and written by `key_files`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.domain.manifest import PublicKey, Signature, key_list_document, public_key
from shared.errors import InvalidInput

SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and its public half; the private one is in no ``repr``."""

    private: Ed25519PrivateKey = field(repr=False)
    public: PublicKey

    @property
    def key_id(self) -> str:
        """Its id, which follows from its public half."""
        return self.public.key_id

    def sign(self, document: bytes) -> Signature:
        """Its signature over exactly these bytes."""
        return Signature(key_id=self.key_id, signature=base64.b64encode(self.private.sign(document)).decode())


def key_of(private: Ed25519PrivateKey) -> SigningKey:
    """A key by its private half."""
    return SigningKey(private, public_key(private.public_key().public_bytes_raw()))


def make_key(random: Callable[[int], bytes]) -> SigningKey:
    """A new key; ``random`` gives that many random bytes, such as `secrets.token_bytes`."""
    return key_of(Ed25519PrivateKey.from_private_bytes(random(SEED_BYTES)))


def private_pem(key: SigningKey) -> bytes:
    """The private half as PEM (PKCS #8, not encrypted), as openssl reads it."""
    return key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_private_pem(pem: bytes) -> SigningKey:
    """A key by its private PEM.

    Raises:
        InvalidInput: It is none, or of another kind than Ed25519, or encrypted.
    """
    try:
        read = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        raise InvalidInput("this is no private key in PEM without a password") from fault
    if not isinstance(read, Ed25519PrivateKey):
        raise InvalidInput("this is no Ed25519 key: make one with `openssl genpkey -algorithm ed25519`")
    return key_of(read)


def public_pem(key: PublicKey) -> str:
    """A public key as PEM (SubjectPublicKeyInfo), as openssl reads it."""
    return (
        Ed25519PublicKey.from_public_bytes(key.raw)
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def read_public_pem(pem: str) -> PublicKey:
    """A public key by its PEM.

    Raises:
        InvalidInput: It is none, or of another kind than Ed25519.
    """
    try:
        read = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise InvalidInput("this is no public key in PEM") from fault
    if not isinstance(read, Ed25519PublicKey):
        raise InvalidInput("this is no Ed25519 key: make one with `openssl genpkey -algorithm ed25519`")
    return public_key(read.public_bytes_raw())


def sign_with(document: bytes, keys: Iterable[SigningKey]) -> list[dict[str, str]]:
    """The signatures of all keys, as they are stored; sorted by the keys' ids."""
    signatures = [key.sign(document) for key in sorted(keys, key=lambda key: key.key_id)]
    return [{"key_id": signature.key_id, "signature": signature.signature} for signature in signatures]


@dataclass(frozen=True, slots=True)
class SignedList:
    """A new list of keys as it is stored."""

    version: int
    document: bytes
    signatures: list[dict[str, str]]


def next_list(
    version: int, members: Mapping[str, PublicKey], *, signers: Iterable[SigningKey], made_at: datetime
) -> SignedList:
    """The list that follows ``version``, signed by keys of that list (the first list by its own keys)."""
    document = key_list_document(version=version + 1, keys=members.values(), made_at=made_at)
    return SignedList(version + 1, document, sign_with(document, signers))

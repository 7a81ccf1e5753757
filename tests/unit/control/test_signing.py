"""Manifests, lists of keys and statements of tests: their exact bytes, who signed them, and where private keys lie."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from services.control.key_files import MAX_KEYS, KeyFiles
from services.control.signing import (
    key_of,
    make_key,
    next_list,
    private_pem,
    public_pem,
    read_private_pem,
    read_public_pem,
    sign_with,
)
from shared.domain.manifest import (
    MAX_DOCUMENT_BYTES,
    KeyList,
    Signature,
    attestation_statement,
    canonical,
    follow_key_list,
    is_signed,
    key_id_of,
    key_list_document,
    manifest_document,
    public_key,
    read_key_list,
    verify_manifest,
)
from shared.errors import Conflict, InvalidInput

AT = datetime(2026, 11, 25, 15, 0, tzinfo=UTC)
FIRST = make_key(lambda count: bytes(range(count)))
SECOND = make_key(lambda count: b"\x07" * count)
THIRD = make_key(lambda count: b"\x08" * count)
PAYLOAD = {
    "name": "flatcar_production_update.gz",
    "role": "main",
    "required": True,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "size": 382137917,
    "sha1_base64": "not signed",
    "position": 0,
}


def manifest(**changes) -> bytes:
    given = {
        "application": "flatcar",
        "version": "3975.2.1",
        "arch": "amd64",
        "kind": "image",
        "payloads": [PAYLOAD],
        "components": {"kernel": "6.6.54", "systemd": "255.8"},
        "packages": {"sys-apps/systemd": "255.8"},
        "minimum_version": None,
        "published_at": AT,
    }
    return manifest_document(**{**given, **changes})


# RFC 8032 has no vector for our bytes; this one was checked with openssl (below) and must stay for ever.
GOLDEN_DOCUMENT = (
    b'{"application":"flatcar","arch":"amd64","components":{"kernel":"6.6.54","systemd":"255.8"},'
    b'"format":"uneventful.manifest.v1","kind":"image","minimum_version":null,'
    b'"packages":{"sys-apps/systemd":"255.8"},"payloads":[{"name":"flatcar_production_update.gz","required":true,'
    b'"role":"main","sha256":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","size":382137917}],'
    b'"published_at":"2026-11-25T15:00:00.000000Z","version":"3975.2.1"}'
)
GOLDEN_KEY_ID = "56475aa75463474c"
GOLDEN_SIGNATURE = "do0S9fcpnEnimZzijU2uUTXE6peWDQn5u2VJ1NVPS0g6jWQWrW9jWvWmZtWkZXVQSMXYP8Pob7ntBelM/n4MBA=="


def test_a_manifest_has_exactly_these_bytes_and_this_signature():
    """Nodes verify bytes: whatever changes them breaks every agent."""
    assert manifest() == GOLDEN_DOCUMENT
    assert FIRST.key_id == GOLDEN_KEY_ID
    assert sign_with(manifest(), [FIRST]) == [{"key_id": GOLDEN_KEY_ID, "signature": GOLDEN_SIGNATURE}]


def signatures(document: bytes, *keys) -> list[Signature]:
    return msgspec.convert(sign_with(document, keys), list[Signature])


def test_a_manifest_is_believed_if_a_trusted_key_signed_it():
    """One good signature of a trusted key is enough, whatever others are beside it."""
    document = manifest()
    read = verify_manifest(document, signatures(document, SECOND, FIRST), [FIRST.public])
    assert (read.version, read.payloads[0].sha256, read.components["kernel"]) == (
        "3975.2.1",
        PAYLOAD["sha256"],
        "6.6.54",
    )


@pytest.mark.parametrize(
    ("document", "signed", "trusted"),
    [
        (manifest(), manifest(), []),
        (manifest(), manifest(), [SECOND.public]),
        (manifest(version="3975.2.2"), manifest(), [FIRST.public]),
        (manifest() + b" ", manifest(), [FIRST.public]),
        (b" " * (MAX_DOCUMENT_BYTES + 1), b"x", [FIRST.public]),
    ],
)
def test_what_no_trusted_key_signed_is_refused(document, signed, trusted):
    """Another key, another byte, no key at all."""
    with pytest.raises(InvalidInput):
        verify_manifest(document, signatures(signed, FIRST), trusted)


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b"[" * 100_000,
        b"\xff",
        key_list_document(version=1, keys=[FIRST.public], made_at=AT),
        manifest(payloads=[]),
    ],
)
def test_what_is_signed_and_no_manifest_is_refused(document):
    """A signature over a list of keys never passes for one over a manifest."""
    with pytest.raises(InvalidInput, match="no manifest"):
        verify_manifest(document, signatures(document, FIRST), [FIRST.public])


@given(st.binary(max_size=200), st.integers(0, 511))
def test_a_signature_holds_for_its_bytes_alone(document, bit):
    """Any bit of the document or the signature that is changed breaks it."""
    (good,) = signatures(document, FIRST)
    assert is_signed(document, good, FIRST.public.raw)
    raw = bytearray(base64.b64decode(good.signature))
    raw[bit // 8] ^= 1 << (bit % 8)
    bad = Signature(key_id=good.key_id, signature=base64.b64encode(raw).decode())
    assert not is_signed(document, bad, FIRST.public.raw)
    assert not is_signed(document + b"\0", good, FIRST.public.raw)
    assert not is_signed(document, good, b"short")


def listed(known: KeyList | None, *members, signers) -> tuple[bytes, list[Signature]]:
    made = next_list(
        0 if known is None else known.version, {key.key_id: key.public for key in members}, signers=signers, made_at=AT
    )
    return made.document, msgspec.convert(made.signatures, list[Signature])


def test_a_node_follows_rotations_from_list_to_list():
    """First, first and second, second alone, third: each list is signed by a key of the one before."""
    document, _ = listed(None, FIRST, signers=[FIRST])
    known = read_key_list(document)
    for members, signers in [([FIRST, SECOND], [FIRST]), ([SECOND], [SECOND, FIRST]), ([THIRD], [SECOND, THIRD])]:
        document, signed = listed(known, *members, signers=signers)
        known = follow_key_list(known, document, signed)
        assert {key.key_id for key in known.keys} == {key.key_id for key in members}
    assert known.version == 4


def test_a_list_that_does_not_follow_is_refused():
    """One that only the new key signed; one that skips a version; the same again; one whose id is another key's."""
    first = read_key_list(listed(None, FIRST, signers=[FIRST])[0])
    with pytest.raises(InvalidInput, match="no good signature"):
        follow_key_list(first, *listed(first, SECOND, signers=[SECOND]))
    third = KeyList(format="uneventful.keys.v1", version=2, made_at="then", keys=first.keys)
    with pytest.raises(InvalidInput, match="followed by 2"):
        follow_key_list(first, *listed(third, FIRST, signers=[FIRST]))
    with pytest.raises(InvalidInput, match="followed by 2"):
        follow_key_list(first, *listed(None, FIRST, signers=[FIRST]))
    forged = canonical(
        {
            "format": "uneventful.keys.v1",
            "version": 2,
            "made_at": "now",
            "keys": [{"key_id": SECOND.key_id, "public_key": FIRST.public.public_key}],
        }
    )
    with pytest.raises(InvalidInput, match="not its id"):
        read_key_list(forged)


def test_a_statement_binds_a_report_to_a_test_and_a_release():
    """The same report for another release, arch or test is another statement."""
    given = {"application": "flatcar", "version": "1.2.3", "arch": "amd64", "name": "net", "artefact_sha256": "0" * 64}
    statements = {attestation_statement(**given)} | {
        attestation_statement(**{**given, name: "other"}) for name in given
    }
    assert len(statements) == 6
    assert attestation_statement(**given) == (
        b'{"application":"flatcar","arch":"amd64","artefact_sha256":"' + b"0" * 64 + b'",'
        b'"format":"uneventful.attestation.v1","name":"net","version":"1.2.3"}'
    )


def test_keys_as_pem():
    """What is written is read again, by openssl's own formats; the private half shows nowhere else."""
    assert read_private_pem(private_pem(FIRST)).key_id == FIRST.key_id
    assert read_public_pem(public_pem(FIRST.public)) == FIRST.public
    assert key_id_of(FIRST.public.raw) == FIRST.key_id == public_key(FIRST.public.raw).key_id
    assert "private" not in repr(FIRST)


def test_other_keys_are_refused():
    """Not PEM, another kind, with a password."""
    other = generate_private_key(SECP256R1())
    plain = serialization.NoEncryption()
    other_pem = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    locked = key_of(FIRST.private).private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    for pem in (b"", b"nonsense", other_pem, locked):
        with pytest.raises(InvalidInput):
            read_private_pem(pem)
    other_public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for text in ("", "nonsense", other_public.decode()):
        with pytest.raises(InvalidInput):
            read_public_pem(text)


# Files


def test_keys_in_a_directory(tmp_path):
    """Written with mode 0600 in a directory of mode 0700; other files are no keys; nothing else is left."""
    files = KeyFiles(tmp_path / "keys")
    assert files.configured
    assert files.read() == {}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    files.write(FIRST)
    files.write(SECOND)
    (tmp_path / "keys" / "README").write_text("no key")
    assert set(files.read()) == {FIRST.key_id, SECOND.key_id}
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {
        "README",
        f"{FIRST.key_id}.pem",
        f"{SECOND.key_id}.pem",
    }
    assert (tmp_path / "keys" / f"{FIRST.key_id}.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    """Whoever had a copy can sign: the name, the mode and what to do are said."""
    files = KeyFiles(tmp_path / "keys")
    files.read()
    files.write(FIRST)
    (tmp_path / "keys" / f"{FIRST.key_id}.pem").chmod(mode)
    with pytest.raises(Conflict, match=f"mode {mode:04o}.*chmod go="):
        files.read()


def test_a_directory_that_others_can_enter_is_refused(tmp_path):
    """A file could be put there, or its name read."""
    (tmp_path / "keys").mkdir(mode=0o755)
    with pytest.raises(Conflict, match="mode 0755"):
        KeyFiles(tmp_path / "keys").read()


def test_what_is_no_key_is_named(tmp_path):
    """A broken file stops the reading: a key that is missing must not go unseen."""
    files = KeyFiles(tmp_path / "keys")
    files.read()
    broken = tmp_path / "keys" / "broken.pem"
    broken.write_text("nothing")
    broken.chmod(0o600)
    with pytest.raises(Conflict, match=r"broken\.pem: this is no private key"):
        files.read()
    broken.unlink()
    for number in range(MAX_KEYS + 1):
        (tmp_path / "keys" / f"{number}.pem").touch(mode=0o600)
    with pytest.raises(Conflict, match="more than"):
        files.read()


def test_without_a_directory_there_is_no_key():
    """Nothing is signed, and nothing can be kept."""
    files = KeyFiles(None)
    assert not files.configured
    assert files.read() == {}
    with pytest.raises(Conflict, match="UNEVENTFUL_KEY_DIR"):
        files.write(FIRST)

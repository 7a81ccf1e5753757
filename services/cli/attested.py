"""Reports of release tests: what they are, and signing them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.cli.errors import Refused
from shared.domain.manifest import attestation_statement, key_id_of

MAX_REPORT_BYTES: Final = 2 * 1024 * 1024
MAX_KEY_BYTES: Final = 4096


def read_report(path: Path) -> bytes:
    """A report's bytes.

    Raises:
        Refused: It is larger than control reads.
    """
    with path.open("rb") as file:
        report = file.read(MAX_REPORT_BYTES + 1)
    if len(report) > MAX_REPORT_BYTES:
        raise Refused(f"{path} is larger than {MAX_REPORT_BYTES} bytes: attach its parts under names of their own")
    return report


def media_type_of(report: bytes) -> str:
    """What a report is, by its first character: JUnit XML, JSON, else TAP."""
    first = report.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    return {b"<": "application/xml", b"{": "application/json"}.get(first, "text/tap")


def name_in(report: bytes) -> str:
    """The test's name as a JSON report says it.

    Raises:
        Refused: It says none.
    """
    try:
        said = orjson.loads(report)
    except orjson.JSONDecodeError:
        said = None
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str):
        raise Refused("say which test this is the report of: --name")
    return name


def sign_report(report: bytes, changeset: Mapping[str, Any], *, name: str, key: Path) -> str:
    """A tester's signature over a report of a test of a changeset, as ``KEY_ID:BASE64``.

    Raises:
        Refused: The file is no private Ed25519 key without a password.
    """
    with key.open("rb") as file:
        pem = file.read(MAX_KEY_BYTES)
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as fault:
        raise Refused(f"{key} is no private key in PEM without a password") from fault
    if not isinstance(private, Ed25519PrivateKey):
        raise Refused(f"{key} is no Ed25519 key: make one with `openssl genpkey -algorithm ed25519`")
    statement = attestation_statement(
        application=changeset["application"],
        version=changeset["version"],
        arch=changeset["arch"],
        name=name,
        artefact_sha256=hashlib.sha256(report).hexdigest(),
    )
    signature = base64.b64encode(private.sign(statement)).decode()
    return f"{key_id_of(private.public_key().public_bytes_raw())}:{signature}"

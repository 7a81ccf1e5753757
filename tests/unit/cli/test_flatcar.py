"""Reading Flatcar release directories, and what a test report is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.cli.attested import MAX_REPORT_BYTES, media_type_of, name_in, read_report, sign_report
from services.cli.errors import Refused
from services.cli.flatcar import MAX_PACKAGES, check_digest, components_of, read_packages, read_release
from shared.domain.manifest import Signature, attestation_statement, is_signed

VERSION = """FLATCAR_BUILD=3975
FLATCAR_BRANCH=2
FLATCAR_PATCH=1
FLATCAR_VERSION=3975.2.1
FLATCAR_VERSION_ID="3975.2.1"
FLATCAR_BUILD_ID=""
FLATCAR_SDK_VERSION=3975.0.0
"""
PACKAGES = """app-misc/ca-certificates-3.104::portage-stable
dev-lang/python-3.11.9_p1::portage-stable
dev-lang/python-3.12.4::portage-stable
sys-apps/systemd-255.8-r1::portage-stable
sys-kernel/coreos-kernel-6.6.54::coreos-overlay
virtual/os-headers-0-r2
not a package
"""


@pytest.fixture
def release(tmp_path) -> Path:
    """A directory as the release server has it."""
    directory = tmp_path / "amd64-usr" / "3975.2.1"
    directory.mkdir(parents=True)
    (directory / "flatcar_production_update.gz").write_bytes(b"update")
    (directory / "version.txt").write_text(VERSION)
    (directory / "flatcar_production_image_packages.txt").write_text(PACKAGES)
    (directory / "flatcar_developer_container_packages.txt").write_text("dev-util/gdb-1.0::x\n")
    (directory / "rootfs-included-sysexts").mkdir()
    included = directory / "rootfs-included-sysexts"
    (included / "docker-flatcar_packages.txt").write_text("app-containers/docker-26.1.0::coreos-overlay\n")
    for name in (
        "oem-azure.gz",
        "flatcar-zfs.gz",
        "flatcar_test_update-oem-azure.gz",
        "flatcar_test_update-oem-gce.gz",
    ):
        (directory / name).write_bytes(name.encode())
    (directory / "flatcar_production_image.bin.bz2").write_bytes(b"not needed")
    return directory


def test_a_release_directory(release):
    """Version, arch, update, extras by the names that nodes ask for, packages and components."""
    found = read_release(release)
    assert (found.version, found.arch, found.main.name) == ("3975.2.1", "amd64", "flatcar_production_update.gz")
    assert {name: path.name for name, path in found.extras.items()} == {
        "oem-azure.gz": "oem-azure.gz",
        "flatcar-zfs.gz": "flatcar-zfs.gz",
        "oem-gce.gz": "flatcar_test_update-oem-gce.gz",
    }
    assert found.packages["dev-lang/python"] == "3.11.9_p1, 3.12.4"
    assert found.packages["virtual/os-headers"] == "0-r2"
    assert "dev-util/gdb" not in found.packages
    assert found.components == {
        "kernel": "6.6.54",
        "systemd": "255.8-r1",
        "docker": "26.1.0",
        "ca-certificates": "3.104",
    }


def test_what_is_not_needed_may_be_missing(release):
    """Only the update and its version must be there; the arch may come from the operator."""
    bare = release.parents[1] / "elsewhere"
    bare.mkdir()
    (bare / "flatcar_production_update.gz").write_bytes(b"update")
    (bare / "version.txt").write_text("COREOS_VERSION='1911.5.0+nightly-1'\n")
    found = read_release(bare)
    assert (found.version, found.arch, found.extras, found.packages) == ("1911.5.0+nightly-1", None, {}, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda at: (at / "flatcar_production_update.gz").unlink(), "which is the update itself"),
        (lambda at: (at / "version.txt").unlink(), "no version.txt"),
        (lambda at: (at / "version.txt").write_text("FLATCAR_VERSION=latest\n"), "no FLATCAR_VERSION"),
        (lambda at: (at / "version.txt").write_text("nothing\n"), "FLATCAR_VERSION like"),
        (lambda at: (at / "version.txt").write_bytes(b"a" * (4 * 1024 * 1024 + 1)), "larger than"),
    ],
)
def test_what_is_no_release_is_refused(release, change, said):
    """In words that say which directory is meant."""
    change(release)
    with pytest.raises(Refused, match=said):
        read_release(release)


@pytest.mark.parametrize("algorithm", ["sha512", "sha256", "sha1"])
def test_digests(release, algorithm):
    """The strongest digest that is there is compared; a file that differs is refused; none at all is no fault."""
    update = release / "flatcar_production_update.gz"
    assert not check_digest(update)
    digests = release / "flatcar_production_update.gz.DIGESTS"
    digest = hashlib.new(algorithm, b"update").hexdigest()
    digests.write_text(f"# MD5 HASH\n{'0' * 32}  flatcar_production_update.gz\n# HASH\n{digest}  {update.name}\n")
    assert check_digest(update)
    update.write_bytes(b"another")
    with pytest.raises(Refused, match="fetch it again"):
        check_digest(update)
    digests.write_text(f"{digest}  another.gz\n")
    assert not check_digest(update)


@given(st.text(max_size=300))
def test_no_text_breaks_the_package_list(text):
    """Lines that are no package are passed over."""
    found = read_packages([text])
    assert all("/" in name and version for name, version in found.items())


def test_too_many_packages_are_refused():
    """Control would refuse them anyway."""
    with pytest.raises(Refused, match="more than"):
        read_packages(["\n".join(f"a/p{number}x-1" for number in range(MAX_PACKAGES + 1))])
    assert components_of({}) == {}


# Test reports


def test_what_a_report_is():
    """By its first character."""
    assert media_type_of(b"\xef\xbb\xbf<testsuites/>") == "application/xml"
    assert media_type_of(b' {"name": "net"}') == "application/json"
    assert media_type_of(b"1..0") == "text/tap"
    assert name_in(b'{"name": "net"}') == "net"
    for report in (b"1..0", b"{}", b"[]"):
        with pytest.raises(Refused, match="--name"):
            name_in(report)


def test_a_report_that_is_too_large_is_not_sent(tmp_path):
    """Control would refuse it anyway."""
    path = tmp_path / "report.xml"
    path.write_bytes(b"x" * MAX_REPORT_BYTES)
    assert len(read_report(path)) == MAX_REPORT_BYTES
    path.write_bytes(b"x" * (MAX_REPORT_BYTES + 1))
    with pytest.raises(Refused, match="larger than"):
        read_report(path)


def test_signing_a_report(tmp_path):
    """The statement of this report, test and release; by an Ed25519 key in PEM alone."""
    private = Ed25519PrivateKey.generate()
    key = tmp_path / "key.pem"
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    of = {"application": "flatcar", "version": "3975.2.1", "arch": "amd64"}
    report = orjson.dumps({"name": "net"})
    signer, _, signature = sign_report(report, of, name="net", key=key).partition(":")
    statement = attestation_statement(**of, name="net", artefact_sha256=hashlib.sha256(report).hexdigest())
    signed = Signature(key_id=signer, signature=signature)
    assert is_signed(statement, signed, private.public_key().public_bytes_raw())
    key.write_text("nonsense")
    with pytest.raises(Refused, match="no private key"):
        sign_report(report, of, name="net", key=key)
    key.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(Refused, match="no Ed25519 key"):
        sign_report(report, of, name="net", key=key)

"""The page about manifests shows what nodes get, and its commands verify it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from services.control.signing import public_pem
from tests.unit.control.test_signing import FIRST, GOLDEN_DOCUMENT, GOLDEN_KEY_ID, GOLDEN_SIGNATURE

DOCS = Path(__file__).parents[2] / "docs/reference/manifest.md"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_page_shows_the_same_bytes_and_its_commands_verify_them(tmp_path):
    """The commands of docs/reference/manifest.md are run as they stand there, with openssl, on the page's example."""
    page = DOCS.read_text()
    assert GOLDEN_DOCUMENT.decode() in page
    assert GOLDEN_SIGNATURE in page
    assert public_pem(FIRST.public).strip() in page
    block = page.partition("```sh verify\n")[2].partition("```")[0]
    (tmp_path / "manifest.json").write_bytes(GOLDEN_DOCUMENT)
    (tmp_path / "key.pem").write_text(public_pem(FIRST.public))
    (tmp_path / "signature.txt").write_text(GOLDEN_SIGNATURE)
    done = subprocess.run(["sh", "-eu", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Signature Verified Successfully" in done.stdout
    assert GOLDEN_KEY_ID in done.stdout
    (tmp_path / "manifest.json").write_bytes(GOLDEN_DOCUMENT + b"\n")
    done = subprocess.run(["sh", "-eu", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0

"""Writing Omaha responses: their bytes, and that both client programs take them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.omaha import response as omaha
from shared.omaha.response import (
    Package,
    UpdateAnswer,
    acknowledged_app,
    document,
    no_update_app,
    render_acknowledged,
    render_no_update,
    render_unknown,
    unknown_app,
)
from shared.testing.omaha_clients import (
    Expects,
    UeRsRejectionError,
    UpdateEngineRejectionError,
    UpdateEngineResult,
    ue_rs_reads,
    update_engine_reads,
)

GOLDEN = Path(__file__).parent / "golden"
FLATCAR = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"
TOKEN = "0123456789abcdef0123456789abcdef"
MAIN_SHA256 = "b2d2c6dd4fe8e00afc4cc1c5c13fd1581d2236469638ee90b4baeaebe00705b0"
MAIN = Package(
    name="flatcar_production_update.gz",
    sha256_hex=MAIN_SHA256,
    size=382137917,
    sha1_base64="I6DGNAOrJRUxPbCuLw+AITfiVMo=",
)
EXTRA = Package(
    name="oem-azure.gz",
    sha256_hex="3aed3129de50b959a97e4913ba485bd60e72d2bb6aa377d5ed404103f0680043",
    size=40897503,
    sha1_base64="wepxwEV9L2SS1l/ycEZSqWM3dDc=",
    required=False,
)
CODEBASES = (f"https://update.example/payloads/{MAIN_SHA256}/{{token}}/", "https://mirror.example/3975.2.1")


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def answer() -> UpdateAnswer:
    return UpdateAnswer(version="3975.2.1", packages=(MAIN, EXTRA), codebases=CODEBASES)


RENDERED = {
    "response_noupdate.xml": lambda: render_no_update(FLATCAR, ping=True, events=1),
    "response_withheld.xml": lambda: render_no_update(FLATCAR, ping=True, events=1, poll_interval=5400),
    "response_ping.xml": lambda: render_acknowledged(FLATCAR, ping=True, events=0),
    "response_event.xml": lambda: render_acknowledged(FLATCAR, ping=False, events=1),
    "response_update.xml": lambda: answer().render(FLATCAR, TOKEN, ping=True, events=1, poll_interval=2700),
    "response_unknown.xml": lambda: render_unknown("{bad}", update_check=True, poll_interval=5400),
    "response_two_apps.xml": lambda: document(
        [
            no_update_app(FLATCAR, ping=True, events=1, poll_interval=5400),
            unknown_app("io.example.addon", update_check=True),
        ]
    ),
}
EXPECTS = {"response_ping.xml": Expects.PING, "response_event.xml": Expects.EVENT}


@pytest.mark.parametrize("name", RENDERED)
def test_responses_are_byte_exact(name: str) -> None:
    """Every shape of answer is written to the byte, attribute order included."""
    assert RENDERED[name]() == golden(name)


@pytest.mark.parametrize("name", RENDERED)
def test_update_engine_takes_every_answer(name: str) -> None:
    """No answer makes update_engine report a failure."""
    result = update_engine_reads(golden(name), expects=EXPECTS.get(name, Expects.UPDATE_CHECK))
    assert result.update is (name == "response_update.xml")


@pytest.mark.parametrize("name", sorted(set(RENDERED) - {"response_unknown.xml", "response_two_apps.xml"}))
def test_ue_rs_takes_every_answer(name: str) -> None:
    """ue-rs reads every answer to an application whose id is a UUID (it knows no others)."""
    assert len(ue_rs_reads(golden(name))) == (2 if name == "response_update.xml" else 0)


def test_an_unknown_application_is_no_failure_for_a_stock_client() -> None:
    """Its fault is in app@status, which update_engine does not read; the check itself is noupdate."""
    body = render_unknown(FLATCAR, update_check=True, poll_interval=5400)
    assert update_engine_reads(body) == UpdateEngineResult(update=False, poll_interval=5400)
    assert ue_rs_reads(body) == ()
    assert b"updatecheck" not in render_unknown(FLATCAR, update_check=False)


def test_update_engine_gets_what_it_installs_by() -> None:
    """Whole payload URLs in order of preference, size and base64 SHA-256 of the first package, no back-off."""
    assert update_engine_reads(golden("response_update.xml")) == UpdateEngineResult(
        update=True,
        poll_interval=2700,
        version="3975.2.1",
        urls=(
            f"https://update.example/payloads/{MAIN_SHA256}/{TOKEN}/flatcar_production_update.gz",
            "https://mirror.example/3975.2.1/flatcar_production_update.gz",
        ),
        size=382137917,
        sha256_base64="stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA=",
        disable_payload_backoff=True,
    )


def test_ue_rs_gets_the_extras() -> None:
    """Each package with both hashes, its URL joined to the first codebase."""
    main, extra = ue_rs_reads(golden("response_update.xml"))
    assert (main.sha256, main.required) == (bytes.fromhex(MAIN_SHA256), True)
    assert extra.url == f"https://update.example/payloads/{MAIN_SHA256}/{TOKEN}/oem-azure.gz"
    assert (extra.required, extra.size) == (False, 40897503)
    assert extra.sha1 == base64.b64decode("wepxwEV9L2SS1l/ycEZSqWM3dDc=")


def test_without_a_token_its_segment_is_left_out() -> None:
    """The distribution serves both forms of the URL."""
    result = update_engine_reads(answer().render(FLATCAR, None, ping=False, events=0))
    assert result.urls[0] == f"https://update.example/payloads/{MAIN_SHA256}/flatcar_production_update.gz"
    assert result.poll_interval == 0


def test_application_ids_are_echoed_verbatim_and_escaped() -> None:
    """Whatever id was sent comes back as the same text, and never as markup."""
    body = document([acknowledged_app("""a"b'<&>\t\n\r""", ping=False, events=0)])
    assert b"""appid="a&#34;b&#39;&lt;&amp;&gt;&#x9;&#xA;&#xD;" """ in body


@pytest.mark.parametrize(
    "change",
    [
        {"version": ""},
        {"version": "{token}/"},
        {"packages": ()},
        {"codebases": ()},
        {"codebases": ("",)},
        {"codebases": ("/payloads/",)},
        {"codebases": ("ftp://update.example/",)},
        {"codebases": ("https://update.example/?a=",)},
        {"codebases": ("https://update.example/{token}/{token}/",)},
        {"codebases": ("https://update.example/x{token}/",)},
        {"codebases": ("https://{token}/",)},
        {"codebases": ("https://update.example/a/../b/",)},
        {"codebases": ("https://update.example/.",)},
        {"packages": (Package(name="a/b", sha256_hex=MAIN_SHA256, size=1),)},
        {"packages": (Package(name="..", sha256_hex=MAIN_SHA256, size=1),)},
        {"packages": (Package(name="", sha256_hex=MAIN_SHA256, size=1),)},
        {"packages": (Package(name="a", sha256_hex=MAIN_SHA256, size=0),)},
        {"packages": (Package(name="a", sha256_hex=MAIN_SHA256.upper(), size=1),)},
        {"packages": (Package(name="a", sha256_hex="stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA=", size=1),)},
        {"packages": (Package(name="a", sha256_hex=MAIN_SHA256, size=1, sha1_base64=MAIN_SHA256),)},
        {"packages": (Package(name="a", sha256_hex=MAIN_SHA256, size=1, sha1_base64="%"),)},
    ],
)
def test_what_no_client_would_accept_is_never_rendered(change: dict[str, object]) -> None:
    """An answer that would fail on every node fails once, here."""
    fields: dict[str, object] = {"version": "1", "packages": (MAIN,), "codebases": CODEBASES}
    with pytest.raises(InvalidInput):
        UpdateAnswer(**{**fields, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("token", ["", "a/b", 'a"', "x" * 129, "a\n"])
def test_only_a_plain_segment_is_a_token(token: str) -> None:
    """A token cannot leave its place in the URL."""
    with pytest.raises(InvalidInput):
        answer().render(FLATCAR, token, ping=True, events=1)


@pytest.mark.parametrize("poll_interval", [0, -1, omaha.MAX_POLL_INTERVAL_S + 1])
def test_poll_intervals_have_bounds(poll_interval: int) -> None:
    """An interval that makes no sense is never sent."""
    with pytest.raises(InvalidInput):
        render_no_update(FLATCAR, ping=True, events=1, poll_interval=poll_interval)


# --- made-up answers --------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,60}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
sha1s = st.none() | st.binary(min_size=20, max_size=20).map(lambda digest: base64.b64encode(digest).decode())
packages = st.lists(
    st.builds(
        Package, name=names, sha256_hex=digests, size=st.integers(1, 2**40), sha1_base64=sha1s, required=st.booleans()
    ),
    min_size=1,
    max_size=4,
)
codebases = st.lists(
    st.from_regex(
        r"https?://[a-z]{1,12}(:[1-9][0-9]{0,3})?(/[a-zA-Z0-9][a-zA-Z0-9._&'~-]{0,20}){0,3}(/\{token\})?/?",
        fullmatch=True,
    ),
    min_size=1,
    max_size=3,
)
versions = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff{"), min_size=1)
tokens = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)


@settings(deadline=None)  # a busy machine is no fault of the code
@given(versions, packages, codebases, tokens, st.booleans(), st.integers(0, 16), st.none() | st.integers(1, 86400))
def test_every_update_is_taken_by_both_clients(  # noqa: PLR0917  # Hypothesis fills them in
    version: str,
    packages: list[Package],
    codebases: list[str],
    token: str,
    ping: bool,
    events: int,
    poll_interval: int | None,
) -> None:
    """Whatever valid update is offered, update_engine and ue-rs read what was meant."""
    made = UpdateAnswer(version=version, packages=packages, codebases=codebases)
    body = made.render(FLATCAR, token, ping=ping, events=events, poll_interval=poll_interval)
    bases = [(url if url.endswith("/") else url + "/").replace("{token}", token) for url in codebases]
    result = update_engine_reads(body)
    assert result == UpdateEngineResult(
        update=True,
        poll_interval=poll_interval or 0,
        version=version,
        urls=tuple(base + packages[0].name for base in bases),
        size=packages[0].size,
        sha256_base64=base64.b64encode(bytes.fromhex(packages[0].sha256_hex)).decode(),
        disable_payload_backoff=True,
    )
    read = ue_rs_reads(body)
    assert [(p.name, p.url, p.size, p.required) for p in read] == [
        (p.name, bases[0] + p.name, p.size, p.required) for p in packages
    ]
    assert [p.sha256 for p in read] == [bytes.fromhex(p.sha256_hex) for p in packages]
    assert body.count(b'<event status="ok">') == events


# --- the twins are as strict as the programs --------------------------------------------------------------------------


UPDATE = golden("response_update.xml")


@pytest.mark.parametrize(
    ("body", "status", "base"),
    [
        (b"", 200, 30),
        (b"<response", 200, 31),
        (UPDATE, 503, 2503),
        (UPDATE, 404, 2404),
        (UPDATE, 0, 2000),
        (UPDATE, -1, 2999),
        (UPDATE.replace(b"<response ", b'<response xmlns="urn:omaha" '), 200, 34),
        (UPDATE.replace(b'updatecheck status="ok"', b'updatecheck status="error-internal"'), 200, 34),
        (UPDATE.replace(b'updatecheck status="ok"', b"updatecheck"), 200, 34),
        (UPDATE.replace(b"updatecheck", b"other"), 200, 34),
        (UPDATE.replace(b"manifest", b"other"), 200, 34),
        (UPDATE.replace(b'codebase="https://mirror.example/3975.2.1/"', b'codebase=""'), 200, 34),
        (UPDATE.replace(b'codebase="https://mirror.example/3975.2.1/"', b""), 200, 34),
        (UPDATE.replace(b"<url ", b"<other ").replace(b"</url>", b"</other>"), 200, 34),
        (UPDATE.replace(b'name="flatcar_production_update.gz"', b'name=""'), 200, 34),
        (UPDATE.replace(b"packages", b"other"), 200, 34),
        (UPDATE.replace(b'size="382137917"', b'size="0"'), 200, 34),
        (UPDATE.replace(b'size="382137917"', b'size="big"'), 200, 34),
        (UPDATE.replace(b'"postinstall"', b'"install"'), 200, 34),
        (UPDATE.replace(b'sha256="stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA="', b'sha256=""'), 200, 34),
    ],
)
def test_update_engine_rejects(body: bytes, status: int, base: int) -> None:
    """Each rule of update_engine, with the base code that it reports."""
    with pytest.raises(UpdateEngineRejectionError) as caught:
        update_engine_reads(body, http_status=status)
    assert caught.value.base == base


def test_update_engine_reads_less_of_other_answers() -> None:
    """The answer to an event is not read at all, that to a ping only parsed."""
    assert not update_engine_reads(b"", http_status=500, expects=Expects.EVENT).update
    with pytest.raises(UpdateEngineRejectionError):
        update_engine_reads(b"<", expects=Expects.PING)


def test_update_engine_reads_the_optional_attributes() -> None:
    """Delta, back-off and failure count are read as update_engine reads them."""
    body = UPDATE.replace(
        b'DisablePayloadBackoff="true"', b'IsDeltaPayload="true" DisablePayloadBackoff="1" MaxFailureCountPerUrl="3"'
    )
    result = update_engine_reads(body)
    assert (result.is_delta, result.disable_payload_backoff, result.max_failure_count_per_url) == (True, False, 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<response", b"<other"),
        (b' protocol="3.0"', b""),
        (FLATCAR.encode(), b"{bad}"),
        (b'{e96281a6-d1af-4bde-9a0a-97b76e56dc57}" status="ok"', b'{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"'),
        (b"urls>", b"other>"),
        (b"https://mirror.example", b"mirror.example"),
        (b' version="3975.2.1"', b""),
        (b"manifest", b"other"),
        (b"packages", b"other"),
        (b"actions", b"other"),
        (b' required="false"', b""),
        (b' required="false"', b' required="no"'),
        (b' size="40897503"', b' size="-1"'),
        (b"3aed3129de50", b"3AED3129DE50"),
        (b"wepxwEV9L2SS1l/ycEZSqWM3dDc=", b"c1ea71c0457d2f6492d65ff2704652a963377437"),
        (b"stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA=", MAIN_SHA256.encode()),
        (b"wepxwEV9L2SS1l/ycEZSqWM3dDc=", b"%"),
        (b'event="postinstall"', b'event="other"'),
        (b'DisablePayloadBackoff="true"', b'DisablePayloadBackoff="1"'),
    ],
)
def test_ue_rs_rejects(old: bytes, new: bytes) -> None:
    """Each rule of ue-rs."""
    assert old in UPDATE
    with pytest.raises(UeRsRejectionError):
        ue_rs_reads(UPDATE.replace(old, new))


def test_ue_rs_needs_a_url_and_skips_packages_without_hashes() -> None:
    """Without a url nothing can be fetched; without a hash it will not be."""
    bare = UPDATE.replace(b' hash="wepxwEV9L2SS1l/ycEZSqWM3dDc="', b"").replace(
        b' hash_sha256="3aed3129de50b959a97e4913ba485bd60e72d2bb6aa377d5ed404103f0680043"', b""
    )
    assert [package.name for package in ue_rs_reads(bare)] == ["flatcar_production_update.gz"]
    with pytest.raises(UeRsRejectionError):
        ue_rs_reads(UPDATE.replace(b"<url ", b"<other ").replace(b"</url>", b"</other>"))

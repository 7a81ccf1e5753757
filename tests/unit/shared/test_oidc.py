"""Tokens of an OpenID Connect issuer: one of our own on the loopback, which signs what it is told to."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from shared.errors import NotAuthenticated, NotPermitted, SettingsInvalid, Unavailable
from shared.settings import Secret
from shared.testing.clock import ManualClock
from shared.testing.oidc import KEYS, Issuer, published
from shared.web import Role
from shared.web.oidc import (
    FRESH_S,
    MAX_DOCUMENT_BYTES,
    REFETCH_S,
    USABLE_S,
    OidcSettings,
    OidcVerifier,
    claim_of,
    is_safe_url,
    keys_of,
    principal_of,
    rules_of,
)

ROLES = "ops=operator,boss=admin,look=viewer"


@pytest.fixture
async def issuer():
    issuer = Issuer()
    server = await issuer.start()
    yield issuer
    await server.close()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def verifier(issuer, clock):
    rules = rules_of(OidcSettings(database_url=Secret("x"), oidc_issuer=issuer.url, oidc_roles=ROLES))
    assert rules is not None
    return OidcVerifier(rules, clock=clock)


@pytest.mark.parametrize("algorithm", list(KEYS))
async def test_a_token_of_the_issuer_is_taken(issuer, verifier, algorithm):
    """By each of three algorithms; the name says that it is the issuer's, and the highest role counts."""
    principal = await verifier.verify(issuer.token(algorithm, roles=["look", "ops", "other", 7]))
    assert (principal.name, principal.role, principal.applications) == ("oidc:ana", Role.OPERATOR, None)


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"nbf": int(time.time()) + 3_600}, "not yet valid"),
        ({"aud": "somebody"}, "udience"),
        ({"aud": None}, "aud"),
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"sub": None}, "names nobody"),
        ({"sub": "a b"}, "names nobody"),
    ],
)
async def test_a_token_that_is_not_valid_is_refused_in_words(issuer, verifier, claims, word):
    """Each claim is judged, and the message says which one."""
    with pytest.raises(NotAuthenticated, match=word):
        await verifier.verify(issuer.token(**claims))


async def test_a_little_difference_of_clocks_is_allowed(issuer, verifier):
    """Seconds, not minutes."""
    now = int(time.time())
    assert await verifier.verify(issuer.token(exp=now - 5, nbf=now + 5)) is not None


async def test_who_has_no_role_is_told_so(issuer, verifier):
    """Known, and not permitted: neither a role that is not mapped nor none at all lets anybody in."""
    for roles in (["admin"], [], None, {"ops": True}):
        with pytest.raises(NotPermitted, match="ops"):
            await verifier.verify(issuer.token(roles=roles))


async def test_a_forged_token_is_refused(issuer, verifier):
    """No signature, a shared secret, another's key, an algorithm that is not the key's, a changed claim."""
    good = issuer.token()
    head, body, signature = good.split(".")

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    unsigned = f"{part({'alg': 'none', 'kid': 'RS256'})}.{body}.eA"
    public = (
        KEYS["RS256"]
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    start = f"{part({'alg': 'HS256', 'kid': 'RS256'})}.{body}"
    mac = base64.urlsafe_b64encode(hmac.digest(public, start.encode(), "sha256")).rstrip(b"=").decode()
    shared = f"{start}.{mac}"
    theirs = jwt.encode(claims, rsa.generate_private_key(65_537, 2_048), algorithm="RS256", headers={"kid": "RS256"})
    crossed = jwt.encode(claims, KEYS["ES256"], algorithm="ES256", headers={"kid": "RS256"})
    nameless = jwt.encode(claims, KEYS["RS256"], algorithm="RS256")
    changed = f"{head}.{part(claims | {'roles': ['boss']})}.{signature}"
    for forged in (unsigned, shared, theirs, crossed, nameless, changed):
        with pytest.raises(NotAuthenticated):
            await verifier.verify(forged)
    for nothing in ("", "une_x", "a.b", "a.b.c", f"{head}.{body}"):
        assert await verifier.verify(nothing) is None


async def test_a_new_key_is_asked_for_once_a_minute(issuer, verifier, clock):
    """A key that is not known yet is looked for; made-up ones do not make us ask again and again."""
    await verifier.verify(issuer.token())
    issuer.keys.append(published("RS256", "new"))
    fresh = issuer.token(key_id="new")
    for _ in range(3):
        with pytest.raises(NotAuthenticated, match="does not publish"):
            await verifier.verify(fresh)
    assert issuer.asked == 1
    clock.advance(REFETCH_S)
    assert await verifier.verify(fresh) is not None
    assert issuer.asked == 2
    issuer.keys.pop()
    clock.advance(FRESH_S)
    with pytest.raises(NotAuthenticated, match="does not publish"):
        await verifier.verify(fresh)


async def test_without_its_keys_nobody_passes(issuer, verifier, clock):
    """An issuer that is away for a while changes nothing; for an hour, everybody is refused, as at the start."""
    issuer.status = 500
    with pytest.raises(Unavailable):
        await verifier.verify(issuer.token())
    issuer.status = 200
    clock.advance(REFETCH_S)
    await verifier.verify(issuer.token())
    issuer.status = 503
    clock.advance(FRESH_S)
    assert await verifier.verify(issuer.token()) is not None
    clock.advance(USABLE_S - FRESH_S)
    with pytest.raises(Unavailable):
        await verifier.verify(issuer.token())


@pytest.mark.parametrize(
    "configuration",
    [
        {"issuer": "https://elsewhere.example"},
        {"jwks_uri": "http://elsewhere.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"padding": "x" * MAX_DOCUMENT_BYTES},
        {"jwks_uri": 7},
    ],
)
async def test_a_configuration_that_cannot_be_trusted_gives_no_keys(issuer, verifier, configuration):
    """Another issuer's, keys from a place that could be forged, more than we read."""
    issuer.configuration = configuration
    with pytest.raises(Unavailable):
        await verifier.verify(issuer.token())


def test_only_keys_for_signing_are_used():
    """Weak ones, others' curves, those for encryption, and what is no key are left out; the rest stays."""
    weak = rsa.generate_private_key(65_537, 1_024)  # noqa: S505  # it is refused
    small = json.loads(RSAAlgorithm.to_jwk(weak.public_key())) | {"kid": "small"}
    other = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key())) | {"kid": "other"}
    keys = [
        small,
        other,
        published("RS256", "enc", use="enc"),
        published("RS256", "ps", alg="PS256"),
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
        published("ES256", ""),
        published("ES256", "good", use="sig", alg="ES256"),
    ]
    assert list(keys_of(json.dumps({"keys": keys}).encode())) == ["good"]


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://id.example/realm", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost", True),
        ("http://id.example", False),
        ("http://10.0.0.1", False),
        ("ftp://127.0.0.1", False),
        ("https://", False),
        ("http:///x", False),
    ],
)
def test_keys_come_by_https_or_from_this_machine(url, safe):
    """What could be changed on the way is not asked for."""
    assert is_safe_url(url) is safe


def test_settings_that_make_no_sense_are_refused():
    """An issuer by http elsewhere, roles that are none; without an issuer there are no rules."""
    assert rules_of(OidcSettings(database_url=Secret("x"))) is None
    with pytest.raises(SettingsInvalid) as refused:
        rules_of(
            OidcSettings(
                database_url=Secret("x"), oidc_issuer="http://id.example", oidc_roles="a=king,b,=viewer,c=admin"
            )
        )
    assert len(refused.value.faults) == 4


def test_roles_stand_where_the_setting_says():
    """A claim by its own name, dots or not, or by a path into objects."""
    claims = {"a.b": 1, "realm": {"roles": ["x"]}, "flat": "boss"}
    assert claim_of(claims, "a.b") == 1
    assert claim_of(claims, "realm.roles") == ["x"]
    assert claim_of(claims, "realm.roles.more") is None
    rules = rules_of(
        OidcSettings(
            database_url=Secret("x"),
            oidc_issuer="https://id.example",
            oidc_role_claim="flat",
            oidc_name_claim="flat",
            oidc_roles="boss=admin",
        )
    )
    assert rules is not None
    assert (principal_of(claims, rules).name, principal_of(claims, rules).role) == ("oidc:boss", Role.ADMIN)

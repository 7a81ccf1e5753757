"""Bearer tokens of an OpenID Connect issuer: signed JWTs, verified here with the issuer's published keys.

Fails closed: without fresh keys nobody passes. Nothing of a token is believed before its signature is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from shared.clock import Clock
from shared.errors import NotAuthenticated, NotPermitted, SettingsInvalid, Unavailable
from shared.settings import ServiceSettings
from shared.web.auth import Principal, Role

ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
LEEWAY_S: Final = 30.0
"""How far the issuer's clock may be from ours."""
FRESH_S: Final = 600.0
"""Keys are asked for again after this long."""
USABLE_S: Final = 3_600.0
"""Keys are used for this long where the issuer does not answer; then nobody passes."""
REFETCH_S: Final = 60.0
"""The least time between two requests to the issuer, whatever tokens come."""
FETCH_TIMEOUT_S: Final = 5.0
MAX_DOCUMENT_BYTES: Final = 256 * 1024
MIN_RSA_BITS: Final = 2_048
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{1,4000}\.[A-Za-z0-9_-]{1,8000}\.[A-Za-z0-9_-]{1,4000}", re.ASCII)
_NAME: Final = re.compile(r"[\x21-\x7e]{1,200}", re.ASCII)

_log = structlog.get_logger()


class OidcSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of what lets operators in by an OpenID Connect issuer, too."""

    oidc_issuer: (
        Annotated[
            str,
            msgspec.Meta(
                pattern="^https?://",
                description="An OpenID Connect issuer whose bearer tokens are taken, as its tokens name it; https, "
                "unless it is on this machine. Not set: none is.",
            ),
        ]
        | None
    ) = None
    oidc_audience: Annotated[
        str, msgspec.Meta(min_length=1, description="What tokens must name as their audience.")
    ] = "uneventful"
    oidc_role_claim: Annotated[
        str,
        msgspec.Meta(min_length=1, description="The claim that holds the roles; dots lead into objects."),
    ] = "roles"
    oidc_roles: Annotated[
        str,
        msgspec.Meta(description="Which value of the claim gives which role, as value=role, separated by commas."),
    ] = "uneventful-viewer=viewer,uneventful-operator=operator,uneventful-approver=approver,uneventful-admin=admin"
    oidc_name_claim: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="The claim that names the operator in the ledger; one that nobody can choose for themselves.",
        ),
    ] = "sub"


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcRules:
    """What tokens must be like, and what they give.

    Attributes:
        roles: The role that each value of the claim gives.
    """

    issuer: str
    audience: str
    role_claim: str
    name_claim: str
    roles: Mapping[str, Role]


class _Discovery(msgspec.Struct, frozen=True):
    """What is read of an issuer's configuration (OpenID Connect Discovery 1.0, 3)."""

    issuer: Annotated[str, msgspec.Meta(max_length=2_000)]
    jwks_uri: Annotated[str, msgspec.Meta(max_length=2_000)]


class _KeySet(msgspec.Struct, frozen=True):
    """A JWK set (RFC 7517 5)."""

    keys: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=100)]


def rules_of(settings: OidcSettings) -> OidcRules | None:
    """What the settings say; None where no issuer is set.

    Raises:
        SettingsInvalid: The issuer is neither https nor on this machine, or the roles cannot be read.
    """
    if settings.oidc_issuer is None:
        return None
    faults = []
    if not is_safe_url(settings.oidc_issuer):
        faults.append(
            "UNEVENTFUL_OIDC_ISSUER is neither https nor on this machine: keys that come by it could be forged"
        )
    roles: dict[str, Role] = {}
    for pair in filter(None, (part.strip() for part in settings.oidc_roles.split(","))):
        value, equals, role = pair.rpartition("=")
        if not equals or not value or role not in list(Role):
            known = ", ".join(Role)
            faults.append(f"UNEVENTFUL_OIDC_ROLES has {pair!r}, which is not value=role with a role of {known}")
            continue
        roles[value] = Role(role)
    if faults:
        raise SettingsInvalid(tuple(faults))
    return OidcRules(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        role_claim=settings.oidc_role_claim,
        name_claim=settings.oidc_name_claim,
        roles=roles,
    )


def is_safe_url(url: str) -> bool:
    """Whether what comes from a URL cannot be changed on the way: https, or on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return parts.hostname == "localhost"


def claim_of(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a path of names with dots; None where there is none."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def principal_of(claims: Mapping[str, Any], rules: OidcRules) -> Principal:
    """Whom verified claims belong to.

    Raises:
        NotAuthenticated: They do not name anybody.
        NotPermitted: They give no role here.
    """
    name = claim_of(claims, rules.name_claim)
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise NotAuthenticated(f"the token's claim {rules.name_claim!r} names nobody: it must be printable text")
    told = claim_of(claims, rules.role_claim)
    values = [told] if isinstance(told, str) else told if isinstance(told, list) else []
    order = list(Role)
    given = [rules.roles[value] for value in values if isinstance(value, str) and value in rules.roles]
    if not given:
        raise NotPermitted(
            f"{name} has no role here: the token's claim {rules.role_claim!r} must hold one of "
            f"{', '.join(sorted(rules.roles)) or 'none'}"
        )
    # The colon keeps these names apart from those of our own tokens.
    return Principal(f"oidc:{name}", max(given, key=order.index))


def keys_of(document: bytes) -> dict[str, tuple[str, Any]]:
    """The keys of a JWK set that tokens may be signed with: algorithm and public key by key id.

    Raises:
        msgspec.MsgspecError: It is no JWK set.
    """
    found: dict[str, tuple[str, Any]] = {}
    for key in msgspec.json.decode(document, type=_KeySet).keys:
        key_id = key.get("kid")
        if not isinstance(key_id, str) or not key_id or key.get("use", "sig") != "sig":
            continue
        algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(key.get("kty")))
        if algorithm is None or key.get("alg", algorithm) != algorithm:
            continue
        try:
            public = jwt.PyJWK(key, algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue  # one key that cannot be used does not spoil the others
        if _is_usable(public):
            found[key_id] = (algorithm, public)
    return found


def _is_usable(key: object) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= MIN_RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, ed25519.Ed25519PublicKey)


class OidcVerifier:
    """Verifies the tokens of one issuer.

    Args:
        rules: What tokens must be like.
        clock: Tells how old keys are. Whether a token has expired is judged by the machine's clock.
    """

    def __init__(self, rules: OidcRules, *, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._keys: dict[str, tuple[str, Any]] = {}
        self._fetched: float | None = None
        self._asked: float | None = None
        self._fetching = asyncio.Lock()

    async def verify(self, token: str) -> Principal | None:
        """Whom a token belongs to; None where it is no JWT.

        Raises:
            NotAuthenticated: It is not valid; the message says why.
            NotPermitted: It is, and gives no role here.
            Unavailable: The issuer's keys cannot be had.
        """
        if _FORM.fullmatch(token) is None:
            return None
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS or not isinstance(key_id, str):
            raise NotAuthenticated(
                f"the token must be signed by one of {', '.join(sorted(ALGORITHMS))} and name its key"
            )
        known, key = await self._key(key_id)
        if known != algorithm:
            raise NotAuthenticated("the token says another algorithm than its key is for")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as fault:
            raise NotAuthenticated(f"the token is not valid here: {fault}") from fault
        return principal_of(claims, self._rules)

    async def _key(self, key_id: str) -> tuple[str, Any]:
        if not self._is_younger(self._fetched, FRESH_S) or key_id not in self._keys:
            await self._refresh()
        if not self._is_younger(self._fetched, USABLE_S):
            raise Unavailable("the issuer of these tokens does not answer: try again later", retry_after_s=30.0)
        found = self._keys.get(key_id)
        if found is None:
            raise NotAuthenticated("the token is signed by a key that its issuer does not publish")
        return found

    def _is_younger(self, moment: float | None, seconds: float) -> bool:
        return moment is not None and self._clock.monotonic() - moment < seconds

    async def _refresh(self) -> None:
        """Ask the issuer for its keys, at most once a minute; where it does not answer, those that are known stay."""
        async with self._fetching:
            if self._is_younger(self._asked, REFETCH_S):
                return
            self._asked = self._clock.monotonic()
            try:
                async with asyncio.timeout(FETCH_TIMEOUT_S):
                    self._keys = await self._fetch()
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, ValueError) as fault:
                _log.warning(
                    "oidc.keys_not_fetched", issuer=self._rules.issuer, cause=f"{type(fault).__name__}: {fault}"
                )
                return
            self._fetched = self._clock.monotonic()

    async def _fetch(self) -> dict[str, tuple[str, Any]]:
        async with aiohttp.ClientSession() as session:
            place = f"{self._rules.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = msgspec.json.decode(await _document(session, place), type=_Discovery)
            if found.issuer != self._rules.issuer:
                raise ValueError(f"the configuration is of {found.issuer!r}")
            if not is_safe_url(found.jwks_uri):
                raise ValueError(f"the keys are at {found.jwks_uri!r}, which is neither https nor on this machine")
            return keys_of(await _document(session, found.jwks_uri))


async def _document(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as answer:
        if answer.status != 200:
            raise ValueError(f"{url} answered {answer.status}")
        read = b""
        async for piece in answer.content.iter_any():
            read += piece
            if len(read) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"{url} answered more than {MAX_DOCUMENT_BYTES} bytes")
        return read

"""Connections to Postgres: how every service opens them, and which of their errors pass by themselves."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import msgspec
import orjson
import stamina

from shared.errors import Unavailable

CONNECT_TIMEOUT_S: Final = 30.0
STATEMENT_TIMEOUT_S: Final = 30.0
IDLE_IN_TRANSACTION_TIMEOUT_S: Final = 10.0

# What a restart, a failover or a full house of Postgres looks like from here; trying again later may help.
TRANSIENT_ERRORS: Final[tuple[type[Exception], ...]] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
)


def is_transient(error: BaseException) -> bool:
    """Whether an error of a database call may pass by itself, so that trying again later is the right answer."""
    # InternalClientError: a statement begun on a connection in the very moment in which it is lost.
    if isinstance(error, (*TRANSIENT_ERRORS, asyncpg.InternalClientError)):
        return True
    # asyncpg says by text alone that a connection or pool is closed; its other interface errors are bugs of ours.
    return isinstance(error, asyncpg.InterfaceError) and "clos" in str(error)


# Only what says that the server cannot be reached yet: a wrong password does not get better by waiting.
_CONNECT_ERRORS: Final[tuple[type[Exception], ...]] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)

# The binary form of jsonb is this version byte and the text. The text form of the codec cannot be used by COPY.
_JSONB_VERSION: Final = b"\x01"


def encode_json(value: object) -> bytes:
    """JSON for a jsonb parameter: what orjson writes natively, msgspec Structs, and ``orjson.Fragment``."""
    return orjson.dumps(value, default=msgspec.to_builtins)


def _encode_jsonb(value: object) -> bytes:
    return _JSONB_VERSION + encode_json(value)


def _decode_jsonb(raw: bytes) -> Any:
    return orjson.loads(memoryview(raw)[1:])


async def set_codecs(connection: asyncpg.Connection[Any]) -> None:
    """Make jsonb and json parameters and results Python values, by orjson."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_jsonb, decoder=_decode_jsonb, format="binary"
    )
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=encode_json, decoder=orjson.loads, format="binary"
    )


def _server_settings(application_name: str, statement_timeout_s: float, *, read_only: bool = False) -> dict[str, str]:
    return ({"default_transaction_read_only": "on"} if read_only else {}) | {
        "application_name": application_name,
        "statement_timeout": str(round(statement_timeout_s * 1000)),
        "idle_in_transaction_session_timeout": str(round(IDLE_IN_TRANSACTION_TIMEOUT_S * 1000)),
        "timezone": "UTC",
    }


def _place(database_url: str) -> str:
    """Host, port and database of a URL: what may be shown."""
    parts = urlsplit(database_url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}" or "the default server"


async def create_pool(
    database_url: str,
    *,
    application_name: str,
    min_size: int = 1,
    max_size: int = 10,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_only: bool = False,
) -> asyncpg.Pool[Any]:
    """Open a pool; while the server cannot be reached, try again for ``connect_timeout_s`` seconds.

    Args:
        database_url: postgresql://user:password@host:port/database.
        application_name: Shown in pg_stat_activity.
        min_size: Connections opened at once.
        max_size: The most that are open at a time.
        statement_timeout_s: A statement that takes longer is cancelled by the server.
        connect_timeout_s: How long to go on trying.
        read_only: Whether its transactions can change nothing.

    Raises:
        Unavailable: The server could not be reached in that time.
    """
    try:
        async for attempt in stamina.retry_context(on=_CONNECT_ERRORS, attempts=None, timeout=connect_timeout_s):
            with attempt:
                pool: asyncpg.Pool[Any] = await asyncpg.create_pool(
                    database_url,
                    init=set_codecs,
                    min_size=min_size,
                    max_size=max_size,
                    timeout=connect_timeout_s,
                    server_settings=_server_settings(application_name, statement_timeout_s, read_only=read_only),
                )
                return pool
    except _CONNECT_ERRORS as error:
        raise _unreachable(database_url, connect_timeout_s, error) from error
    raise AssertionError  # stamina either runs the block or raises


async def connect(
    database_url: str,
    *,
    application_name: str,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> asyncpg.Connection[Any]:
    """Open one connection of its own: for locks that are held long, LISTEN, and migrations.

    Arguments and errors are those of `create_pool`; a ``statement_timeout_s`` of 0 means none.
    """
    try:
        async for attempt in stamina.retry_context(on=_CONNECT_ERRORS, attempts=None, timeout=connect_timeout_s):
            with attempt:
                connection: asyncpg.Connection[Any] = await asyncpg.connect(
                    database_url,
                    timeout=connect_timeout_s,
                    server_settings=_server_settings(application_name, statement_timeout_s),
                )
                await set_codecs(connection)
                return connection
    except _CONNECT_ERRORS as error:
        raise _unreachable(database_url, connect_timeout_s, error) from error
    raise AssertionError  # stamina either runs the block or raises


def _unreachable(database_url: str, seconds: float, error: Exception) -> Unavailable:
    return Unavailable(
        f"Postgres at {_place(database_url)} could not be reached within {seconds:g} s ({type(error).__name__}); "
        "see that it runs and that UNEVENTFUL_DATABASE_URL names it",
        retry_after_s=5.0,
    )

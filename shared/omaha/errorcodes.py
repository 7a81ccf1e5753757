"""update_engine's error codes: flag bits, base codes, and what kind of trouble each one is.

Source: update_engine's ``action_processor.h`` (the codes and flags) and the buckets of its ``payload_state.cc``.
"""

from __future__ import annotations

import enum

import msgspec

_BASE_MASK = 0x0FFFFFFF
_HTTP_FIRST = 2000
_HTTP_LAST = 2999


class ErrorFlag(enum.IntFlag):
    """Bits OR-ed into a code; they tell the client's circumstances, not the error.

    ``TEST_OMAHA_URL`` is set whenever the client's server is not the public one, so always with a private server.
    """

    TEST_OMAHA_URL = 1 << 28
    TEST_IMAGE = 1 << 29
    RESUMED = 1 << 30
    DEV_MODE = 1 << 31


class ErrorCode(enum.IntEnum):
    """Base codes, named as update_engine names them. ``2000 + n`` (HTTP status n) has no member of its own."""

    SUCCESS = 0
    ERROR = 1
    OMAHA_REQUEST_ERROR = 2
    OMAHA_RESPONSE_HANDLER_ERROR = 3
    FILESYSTEM_COPIER_ERROR = 4
    POSTINSTALL_RUNNER_ERROR = 5
    SET_BOOTABLE_FLAG_ERROR = 6
    INSTALL_DEVICE_OPEN_ERROR = 7
    KERNEL_DEVICE_OPEN_ERROR = 8
    DOWNLOAD_TRANSFER_ERROR = 9
    PAYLOAD_HASH_MISMATCH_ERROR = 10
    PAYLOAD_SIZE_MISMATCH_ERROR = 11
    DOWNLOAD_PAYLOAD_VERIFICATION_ERROR = 12
    DOWNLOAD_NEW_PARTITION_INFO_ERROR = 13
    DOWNLOAD_WRITE_ERROR = 14
    NEW_ROOTFS_VERIFICATION_ERROR = 15
    NEW_KERNEL_VERIFICATION_ERROR = 16
    SIGNED_DELTA_PAYLOAD_EXPECTED_ERROR = 17
    DOWNLOAD_PAYLOAD_PUB_KEY_VERIFICATION_ERROR = 18
    POSTINSTALL_BOOTED_FROM_FIRMWARE_B = 19
    DOWNLOAD_STATE_INITIALIZATION_ERROR = 20
    DOWNLOAD_INVALID_METADATA_MAGIC_STRING = 21
    DOWNLOAD_SIGNATURE_MISSING_IN_MANIFEST = 22
    DOWNLOAD_MANIFEST_PARSE_ERROR = 23
    DOWNLOAD_METADATA_SIGNATURE_ERROR = 24
    DOWNLOAD_METADATA_SIGNATURE_VERIFICATION_ERROR = 25
    DOWNLOAD_METADATA_SIGNATURE_MISMATCH = 26
    DOWNLOAD_OPERATION_HASH_VERIFICATION_ERROR = 27
    DOWNLOAD_OPERATION_EXECUTION_ERROR = 28
    DOWNLOAD_OPERATION_HASH_MISMATCH = 29
    OMAHA_REQUEST_EMPTY_RESPONSE_ERROR = 30
    OMAHA_REQUEST_XML_PARSE_ERROR = 31
    DOWNLOAD_INVALID_METADATA_SIZE = 32
    DOWNLOAD_INVALID_METADATA_SIGNATURE = 33
    OMAHA_RESPONSE_INVALID = 34
    OMAHA_UPDATE_IGNORED_PER_POLICY = 35
    OMAHA_UPDATE_DEFERRED_PER_POLICY = 36
    OMAHA_ERROR_IN_HTTP_RESPONSE = 37
    DOWNLOAD_OPERATION_HASH_MISSING_ERROR = 38
    DOWNLOAD_METADATA_SIGNATURE_MISSING_ERROR = 39
    OMAHA_UPDATE_DEFERRED_FOR_BACKOFF = 40
    POSTINSTALL_POWERWASH_ERROR = 41
    NEW_PCR_POLICY_VERIFICATION_ERROR = 42
    NEW_PCR_POLICY_HTTP_ERROR = 43
    ROLLBACK_ERROR = 44
    DOWNLOAD_INCOMPLETE = 100


class ErrorClass(enum.StrEnum):
    """Whose trouble an error is. Only ``NODE_HEALTH`` speaks against the release itself."""

    NODE_HEALTH = "node_health"
    PAYLOAD = "payload"
    NETWORK = "network"
    DISK = "disk"
    SERVER_ANSWER = "server_answer"
    NOT_FAILURE = "not_failure"
    UNKNOWN = "unknown"


class SplitErrorCode(msgspec.Struct, frozen=True, gc=False):
    """A reported code taken apart; ``code`` is the unsigned 32-bit value, ``base`` the error without its flags."""

    code: int
    base: int
    flags: ErrorFlag


_CLASSES: dict[int, ErrorClass] = {
    base: error_class
    for error_class, bases in (
        (ErrorClass.NODE_HEALTH, (5, 15, 16, 44)),
        (ErrorClass.PAYLOAD, (10, 11, 12, 17, 18, 21, 22, 23, 24, 25, 26, 27, 28, 29, 32, 33, 38, 39)),
        (ErrorClass.NETWORK, (9, 20, 37)),
        (ErrorClass.DISK, (4, 7, 8, 13, 14)),
        (ErrorClass.SERVER_ANSWER, (30, 31, 34)),
        (ErrorClass.NOT_FAILURE, (0, 35, 36, 40)),
    )
    for base in bases
}


def base_code(code: int) -> int:
    """The error itself, without the flag bits."""
    return code & _BASE_MASK


def split_error_code(code: int) -> SplitErrorCode:
    """Takes a reported code apart. A negative one is read as the signed 32-bit form that ``%d`` prints."""
    unsigned = code & 0xFFFFFFFF
    return SplitErrorCode(unsigned, unsigned & _BASE_MASK, ErrorFlag(unsigned & ~_BASE_MASK))


def classify(base: int) -> ErrorClass:
    """What kind of trouble a base code is; an unlisted code is ``UNKNOWN``, never a guess."""
    if _HTTP_FIRST <= base <= _HTTP_LAST:
        return ErrorClass.NETWORK
    return _CLASSES.get(base, ErrorClass.UNKNOWN)


def error_name(base: int) -> str:
    """A readable name: the enum member in lower case, ``http_503`` for 2503, ``code_77`` for an unlisted one."""
    if _HTTP_FIRST <= base <= _HTTP_LAST:
        return f"http_{base - _HTTP_FIRST}"
    try:
        return ErrorCode(base).name.lower()
    except ValueError:
        return f"code_{base}"

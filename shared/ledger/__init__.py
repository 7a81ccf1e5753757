"""The ledger: append in the caller's transaction, follow by seq, verify the chain."""

from shared.ledger.entry import GENESIS, LedgerEntry, chain_hash, microseconds
from shared.ledger.follow import CHANNEL, LedgerFollower, LedgerSignal
from shared.ledger.store import advance, append, checkpoint, head, read
from shared.ledger.verify import ChainCheck, VerifyResult, verify_chain

__all__ = [
    "CHANNEL",
    "GENESIS",
    "ChainCheck",
    "LedgerEntry",
    "LedgerFollower",
    "LedgerSignal",
    "VerifyResult",
    "advance",
    "append",
    "chain_hash",
    "checkpoint",
    "head",
    "microseconds",
    "read",
    "verify_chain",
]

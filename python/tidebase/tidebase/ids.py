"""Ids made by the client: what is created under an id of ours is created once, however often the call is repeated."""

from __future__ import annotations

import secrets
import time


def new_run_id() -> str:
    """A new run id: ``run_`` and a UUIDv7 without dashes, so that ids sort by time."""
    return f"run_{_uuid7()}"


def new_usage_id() -> str:
    """A new id for an entry of the usage ledger."""
    return f"use_{_uuid7()}"


def new_owner(prefix: str) -> str:
    """A name for a lease that nobody else uses.

    Each execution takes its own: if one process loses a run and gets it back, the fence must still tell the old
    execution from the new one.
    """
    return f"{prefix}-{secrets.token_hex(6)}"


def _uuid7() -> str:
    milliseconds = time.time_ns() // 1_000_000
    variant = "89ab"[secrets.randbelow(4)]
    return f"{milliseconds:012x}7{secrets.token_hex(2)[:3]}{variant}{secrets.token_hex(8)[:15]}"

"""Jobs: runs as they are put into queues."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

from ..ids import new_run_id
from .wire import Time, body, iso, ms


class Enqueued(NamedTuple):
    """A run that was put into a queue.

    Attributes:
        run: the run.
        deduplicated: an active run had the dedupe key already; it is that one.
    """

    run: Dict[str, Any]
    deduplicated: bool


class Unchanged:
    """Stands for a field that keeps its value."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Any = Unchanged()


def job(
    workflow_name: str,
    *,
    input: Any = None,
    id: Optional[str] = None,
    dedupe_key: Optional[str] = None,
    concurrency_key: Optional[str] = None,
    delay_s: Optional[float] = None,
    run_at: Optional[Time] = None,
    max_attempts: Optional[int] = None,
    priority: Optional[int] = None,
    deadline_s: Optional[float] = None,
    metadata: Optional[Mapping[str, Any]] = None,
    recovery_webhook: Optional[str] = None,
    channels: Optional[Sequence[Mapping[str, Any]]] = None,
    budget: Optional[Mapping[str, float]] = None,
) -> Dict[str, Any]:
    """A job for ``tide.queues.enqueue_all``; the arguments are those of ``tide.enqueue``."""
    return body(
        id=id or new_run_id(),
        workflowName=workflow_name,
        input=input,
        dedupeKey=dedupe_key,
        concurrencyKey=concurrency_key,
        delayMs=ms(delay_s),
        runAt=iso(run_at),
        maxAttempts=max_attempts,
        priority=priority,
        deadlineMs=ms(deadline_s),
        metadata=metadata,
        recoveryWebhook=recovery_webhook,
        channels=channels,
        budget=budget,
    )


def enqueued(reply: Dict[str, Any], own_id: str) -> Enqueued:
    """A repeated call finds the run that its first try made: that is not somebody else's."""
    return Enqueued(reply["run"], bool(reply["deduplicated"]) and reply["run"]["id"] != own_id)

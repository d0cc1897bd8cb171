"""Parking: an execution in which everything waits gives its run up, so that a week's wait holds no worker.

    waiting, nothing else under way for a while ─▶ park ─▶ parked: this execution is over, whatever ends the wait
         ▲                                          │      starts another, which replays to the same place
         └──── something else began, or over ◀──────┘
"""

from __future__ import annotations

import threading
import time
from typing import Awaitable, Callable, Dict, Optional, TypeVar

from .lease import Lease

T = TypeVar("T")

#: How long everything must have waited, in seconds: a decision or a signal that comes soon spares a replay.
PARK_AFTER_S = 2.0
# Below the server's ceiling of 30 s, and below the idle limit of common proxies.
POLL_S = 25.0


class Parking:
    """What is waited for in one execution."""

    def __init__(self, lease: Lease, after_s: Optional[float]) -> None:
        self._lease = lease
        self._after_s = after_s
        self._lock = threading.Lock()
        self._waiting_for: Dict[str, int] = {}
        self._armed_at = 0.0

    @property
    def allowed(self) -> bool:
        """Whether this execution may end by parking."""
        return self._after_s is not None

    async def during(
        self, waited: str, poll: Callable[[float], Awaitable[Optional[T]]], poll_s: float = POLL_S
    ) -> T:
        """Waits, or parks the run.

        Args:
            waited: id of what is waited for: a gate or a wait.
            poll: asks, for so many seconds at most; None when it is not over.
            poll_s: longest such question, in seconds.
        """
        with self._lock:
            self._waiting_for[waited] = self._waiting_for.get(waited, 0) + 1
            self._armed_at = time.monotonic()
        try:
            while True:
                left = poll_s
                if self._after_s is not None:
                    left = min(left, max(self._armed_at + self._after_s - time.monotonic(), 0.02))
                over = await poll(left)
                if over is not None:
                    return over
                self._lease.check()
                if self._after_s is None or time.monotonic() < self._armed_at + self._after_s:
                    continue
                # What cannot be parked now is tried again as long as it waits.
                self._armed_at = time.monotonic()
                if not self._lease.busy and not self._lease.leaving:
                    await self._try()
        finally:
            with self._lock:
                others = self._waiting_for.get(waited, 1) - 1
                if others > 0:
                    self._waiting_for[waited] = others
                else:
                    self._waiting_for.pop(waited, None)

    async def until(self, waited: str) -> None:
        """Parks until something that cannot be polled is over, such as a review; returns when it is over already."""
        with self._lock:
            self._waiting_for[waited] = 1
        try:
            await self._park()
        finally:
            with self._lock:
                self._waiting_for.pop(waited, None)

    async def _try(self) -> None:
        try:
            await self._park()
        except Exception:
            self._lease.check()

    async def _park(self) -> None:
        with self._lock:
            waiting_for = list(self._waiting_for)
        if await self._lease.leave(waiting_for):
            self._lease.check()

"""The worker: claims queued runs and executes them, so many at a time, until it is told to stop.

    claiming ──stop──▶ draining (no claims; what runs may end within grace_s) ──▶ stopped

Invariants: an outage never ends a worker, only a refusal does (wrong key, wrong request); each claim has a lease owner
of its own, so that an execution whose run was lost and claimed again here is fenced off too.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Set

from ..errors import RunParkedError, TidebaseError, error_text
from ..ids import new_owner
from ..runtime import takes
from ..stop import Stop
from ..transport import backoff
from .execute import Begin, Engine, Held
from .parking import PARK_AFTER_S

OnError = Callable[[BaseException, Optional[Dict[str, Any]]], None]


@dataclass
class Work:
    """How a worker works; see `Tidebase.work`."""

    queues: Sequence[str] = ("default",)
    concurrency: int = 10
    stop: Optional[Stop] = None
    grace_s: float = 25.0
    lease_owner: Optional[str] = None
    wait_s: float = 5.0
    poll_s: float = 1.0
    park_after_s: float = PARK_AFTER_S
    on_error: Optional[OnError] = None


class Worker:
    """One worker."""

    def __init__(self, engine: Engine, work: Work) -> None:
        if work.concurrency < 1:
            raise ValueError(f"concurrency must be a whole number from 1, not {work.concurrency}")
        self._engine = engine
        self._work = work
        self._name = work.lease_owner or new_owner("worker")
        self._stop = work.stop or Stop()
        self._hard_stop = Stop()
        self._running: Set["Future[None]"] = set()
        self._lock = threading.Lock()
        self._freed = engine.runtime.flag()

    async def run(self) -> None:
        """Works until the stop."""
        claims = failures = idle = 0
        try:
            while not self._stop.stopped:
                with self._lock:
                    free = self._work.concurrency - len(self._running)
                    self._freed = freed = self._engine.runtime.flag()
                if free < 1:
                    unwatch = self._stop.watch(freed.set)
                    await freed.wait(None)
                    unwatch()
                    continue
                asked = time.monotonic()
                claims += 1
                try:
                    claimed = await self._claim(f"{self._name}/{claims}", min(free, 100))
                except TidebaseError as error:
                    if not error.retryable:
                        raise
                    if failures == 0:
                        self._tell(error, None)
                    await self._pause(backoff(failures, 0.2, 10.0))
                    failures += 1
                    continue
                failures = 0
                runs: List[Dict[str, Any]] = claimed["runs"]
                for run in runs:
                    self._start(run, claimed)
                early = not runs and time.monotonic() - asked < self._work.wait_s / 2
                idle = idle + 1 if early else 0
                if early:
                    await self._pause(backoff(idle - 1, 0.02, self._work.poll_s))
        finally:
            await self._drain()

    async def _claim(self, owner: str, limit: int) -> Dict[str, Any]:
        reply: Dict[str, Any] = await self._engine.call(
            "POST",
            "/queues/claim",
            body={
                "queues": list(self._work.queues),
                "leaseOwner": owner,
                "limit": limit,
                "waitMs": int(self._work.wait_s * 1000),
                "include": ["checkpoints"],
            },
            retry_for_s=0,
            timeout_s=self._work.wait_s + 15,
        )
        return reply

    async def _pause(self, seconds: float) -> None:
        flag = self._engine.runtime.flag()
        unwatch = self._stop.watch(flag.set)
        await flag.wait(seconds)
        unwatch()

    def _start(self, run: Dict[str, Any], claimed: Dict[str, Any]) -> None:
        held = Held(run, claimed["leaseOwner"], (claimed.get("checkpoints") or {}).get(run["id"]) or [])

        def body(context: Any, given: Any) -> Any:
            # Looked up here, so that a run nobody here can execute is recorded as failed and another worker may try.
            fn = self._engine.workflow_fn(run["workflowName"])
            return fn(*[context, given][: max(1, min(2, takes(fn, 2)))])

        async def job() -> None:
            try:
                options = Begin(stop=self._hard_stop, park_after_s=self._work.park_after_s, leave=True)
                await self._engine.execute(held, body, options)
            except RunParkedError:
                pass
            except Exception as error:
                self._tell(error, run)

        future = self._engine.runtime.spawn(job)
        with self._lock:
            self._running.add(future)
        future.add_done_callback(self._ended)

    def _ended(self, future: "Future[None]") -> None:
        with self._lock:
            self._running.discard(future)
            freed = self._freed
        freed.set()

    async def _drain(self) -> None:
        until = time.monotonic() + self._work.grace_s
        while True:
            with self._lock:
                left = len(self._running)
                self._freed = freed = self._engine.runtime.flag()
            if not left:
                return
            patience = until - time.monotonic()
            if patience <= 0 and not self._hard_stop.stopped:
                self._hard_stop.stop(
                    TidebaseError(
                        "The worker stopped before the run ended.",
                        code="worker_stopped",
                        hint="The run resumes where it was, when it has attempts left. Raise grace_s for longer work.",
                        failure_class="worker_stopped",
                    )
                )
            await freed.wait(max(patience, 0.05) if not self._hard_stop.stopped else 0.05)

    def _tell(self, error: BaseException, run: Optional[Dict[str, Any]]) -> None:
        tell(self._work.on_error or print_error, error, run)


def tell(on_error: OnError, error: BaseException, run: Optional[Dict[str, Any]]) -> None:
    """A handler that raises must not end the worker."""
    try:
        on_error(error, run)
    except Exception as raised:
        print_error(raised, None)


def print_error(error: BaseException, run: Optional[Dict[str, Any]]) -> None:
    """Says on stderr what failed."""
    which = f"run {run['id']} ({run['workflowName']}) failed: " if run else ""
    print(f"tidebase: {which}{error_text(error)}", file=sys.stderr)

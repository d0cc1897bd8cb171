"""A held run: who executes it, the heartbeat that keeps it, and the stop that tells when it is over.

    held ──close()──────▶ over        the execution ended by itself
      ├────stop.stop()──▶ over        told to stop from outside
      └────lose(error)──▶ over, lost  cancelled, taken over or parked

Invariants: every write of an execution passes `call`; after `over` nothing more is sent; the first reason wins.
Fencing is the server's: this only learns of it early and stops the work. Heartbeats come from a daemon thread, so that
neither a long step nor a busy event loop lets the lease run out.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ..errors import LeaseLostError, RunCancelled, RunParkedError, TidebaseError
from ..runtime import Runtime
from ..stop import Stop
from ..transport import Transport

LONGEST_BEAT_S = 20.0


class Lease:
    """The lease of one execution of a run. Heartbeats start with it and end with its stop."""

    def __init__(
        self, runtime: Runtime, transport: Transport, run: Dict[str, Any], owner: str, outer: Optional[Stop] = None
    ) -> None:
        self.runtime = runtime
        self.run_id: str = run["id"]
        self.owner = owner
        self.stop = Stop()
        self.lost = False
        self._transport = transport
        self._length_s = _lease_length(run)
        self._busy = 0
        self._leaving = 0
        self._wake = threading.Condition()
        self._due: List[Tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._sleeping_until = float("inf")
        self._unwatch = outer.watch(lambda: self.stop.stop(outer.reason)) if outer else lambda: None
        self.stop.watch(self._ended)
        self.later(self._beat_s, self._beat)
        if not self.stop.stopped:
            threading.Thread(target=self._pulse, name=f"tidebase {self.run_id}", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether anything but waiting is under way."""
        return self._busy > 0

    @property
    def leaving(self) -> bool:
        """Whether a call that parks the run is under way: what a heartbeat hears meanwhile may be its doing."""
        return self._leaving > 0

    @contextmanager
    def during(self) -> Iterator[None]:
        """Counts as busy."""
        with self._wake:
            self._busy += 1
        try:
            yield
        finally:
            with self._wake:
                self._busy -= 1

    def check(self) -> None:
        """Raises the reason when the execution is over."""
        self.stop.check()

    async def call(self, method: str, path: str, *, idle: bool = False, **request: Any) -> Any:
        """Calls a route of this run on behalf of this execution.

        Args:
            path: what follows ``/runs/{run_id}``.
            idle: the call only waits.

        Raises:
            LeaseLostError, RunCancelled: when the server says so, and from then on at once.
        """
        self.check()
        try:
            if idle:
                return await self._send(method, path, request)
            with self.during():
                return await self._send(method, path, request)
        except TidebaseError as error:
            if is_loss(error):
                self.lose(error)
            self.check()
            raise

    async def leave(self, waiting_for: List[str]) -> bool:
        """Parks the run: gives it up until one of the things it waits for is over.

        Args:
            waiting_for: ids of gates and waits.

        Returns:
            whether it is parked; then this execution has ended.

        Raises:
            as ``call``.
        """
        with self._wake:
            self._leaving += 1
        try:
            reply = await self.call(
                "POST", "/park", idle=True, body={"leaseOwner": self.owner, "waitingFor": waiting_for}
            )
            if reply["action"] != "parked":
                return False
            self.lose(RunParkedError(self.run_id))
            return True
        finally:
            with self._wake:
                self._leaving -= 1

    async def _send(self, method: str, path: str, request: Dict[str, Any]) -> Any:
        return await self.runtime.call(
            self._transport, method, "/runs/{run_id}" + path, run_id=self.run_id, stop=self.stop, **request
        )

    def lose(self, error: BaseException) -> None:
        """Ends the execution because the run is not ours any more; the first reason to end wins."""
        if not self.stop.stopped:
            self.lost = True
        self.stop.stop(error)

    def close(self) -> None:
        """Ends the execution: it has said its last word. Work it left running is told to stop."""
        self.stop.stop(
            TidebaseError(
                f"The execution of run {self.run_id} has ended.",
                code="run_ended",
                hint="Wait for everything that the workflow starts before it returns.",
            )
        )

    def later(self, seconds: float, work: Callable[[], None]) -> Callable[[], None]:
        """Does something small in the heartbeat's thread after a while, unless the execution is over.

        Returns:
            takes it back.
        """
        due = time.monotonic() + seconds
        entry = (due, next(self._numbers), work)
        with self._wake:
            heapq.heappush(self._due, entry)
            if due < self._sleeping_until:
                self._wake.notify_all()
        return lambda: self._forget(entry)

    def courtesy(self, method: str, path: str, **request: Any) -> Any:
        """A single try of a call whose failure does not matter; for `later`. Returns the answer, if one came."""
        try:
            return self._transport.call(
                method, "/runs/{run_id}" + path, run_id=self.run_id, stop=self.stop, retry_for_s=0, **request
            )
        except BaseException:
            # The record says everything again. Losing the run is noticed by the heartbeat and by every other call.
            return None

    def post(self, path: str, **request: Any) -> Any:
        """A call from a thread of ours; raises as ``call``."""
        self.check()
        try:
            return self._transport.call(
                "POST", "/runs/{run_id}" + path, run_id=self.run_id, stop=self.stop, **request
            )
        except TidebaseError as error:
            if is_loss(error):
                self.lose(error)
            raise

    def _forget(self, entry: Tuple[float, int, Callable[[], None]]) -> None:
        with self._wake:
            if entry in self._due:
                self._due.remove(entry)
                heapq.heapify(self._due)

    def _ended(self) -> None:
        self._unwatch()
        with self._wake:
            self._wake.notify_all()

    def _pulse(self) -> None:
        while True:
            with self._wake:
                while not self.stop.stopped:
                    self._sleeping_until = self._due[0][0] if self._due else float("inf")
                    left = self._sleeping_until - time.monotonic()
                    if left <= 0:
                        break
                    self._wake.wait(min(left, 3_600))
                if self.stop.stopped:
                    self._due.clear()
                    return
                work = heapq.heappop(self._due)[2]
                self._sleeping_until = 0.0
            work()

    @property
    def _beat_s(self) -> float:
        return min(self._length_s / 3, LONGEST_BEAT_S)

    def _beat(self) -> None:
        try:
            self._transport.call(
                "POST",
                "/runs/{run_id}/heartbeat",
                run_id=self.run_id,
                body={"leaseOwner": self.owner},
                stop=self.stop,
                # The next beat is the repetition. Whoever takes over meanwhile does so by the server's clock.
                retry_for_s=0,
                timeout_s=max(self._length_s / 3, 1.0),
            )
            self.later(self._beat_s, self._beat)
        except TidebaseError as error:
            if is_loss(error) and not self.leaving:
                self.lose(error)
            self.later(min(self._beat_s, max(self._length_s / 20, 0.05)), self._beat)
        except BaseException:
            # Stopped meanwhile.
            self.later(self._beat_s, self._beat)


def is_loss(error: BaseException) -> bool:
    """Whether the server's answer means that this execution may not write about its run any more."""
    return isinstance(error, (LeaseLostError, RunCancelled)) or getattr(error, "code", None) == "run_not_found"


def _lease_length(run: Dict[str, Any]) -> float:
    """How long leases last, in seconds, from one reply of the server: both times are of its clock, ours may be wrong."""
    try:
        seconds = (_time(run["leaseExpiresAt"]) - _time(run["updatedAt"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return 60.0
    return seconds if seconds > 0 else 60.0


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))

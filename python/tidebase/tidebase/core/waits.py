"""Waits: sleeping, and waiting for a signal. The server keeps time; a resumed run waits for what is left."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Dict, Optional, Union

from ..errors import RunCancelled
from .lease import Lease
from .parking import Parking
from .wire import body, iso, ms


@dataclass(frozen=True)
class ReceivedSignal:
    """A signal that came.

    Attributes:
        payload: what was sent.
        received_at: ISO 8601.
    """

    payload: Any
    received_at: str


class Numbers:
    """Numbers calls of one name: ``sleep#1``, ``sleep#2``, … in the order of the calls, which a deterministic workflow
    repeats when it is resumed."""

    def __init__(self) -> None:
        self._counts: Dict[str, int] = {}
        self._lock = threading.Lock()

    def next(self, name: str) -> str:
        with self._lock:
            self._counts[name] = count = self._counts.get(name, 0) + 1
        return f"{name}#{count}"


class Waits:
    """The waits of one execution."""

    def __init__(self, lease: Lease, parking: Parking) -> None:
        self._lease = lease
        self._parking = parking
        self._numbers = Numbers()

    async def sleep(self, time: Union[float, timedelta, datetime], name: Optional[str]) -> None:
        if isinstance(time, timedelta):
            time = time.total_seconds()
        when = {"wakeAt": iso(time)} if isinstance(time, datetime) else {"delayMs": ms(time)}
        timer = name if name is not None else self._numbers.next("sleep")
        reply = await self._lease.call("POST", "/timers", body=body(name=timer, **when))
        await self._until(reply["wait"])

    async def signal(self, name: str, timeout_s: Optional[float]) -> Optional[ReceivedSignal]:
        reply = await self._lease.call(
            "POST",
            "/signals/wait",
            body=body(name=self._numbers.next(name), signal=name, timeoutMs=ms(timeout_s)),
        )
        over = await self._until(reply["wait"])
        if over["status"] == "timed_out":
            return None
        return ReceivedSignal(over.get("payload"), over.get("resolvedAt") or over["createdAt"])

    async def _until(self, begun: Dict[str, Any]) -> Dict[str, Any]:
        if begun["status"] != "pending":
            return begun

        async def poll(seconds: float) -> Optional[Dict[str, Any]]:
            reply = await self._lease.call(
                "GET",
                "/waits/{wait_id}",
                wait_id=begun["id"],
                idle=True,
                query={"waitMs": ms(seconds)},
                timeout_s=seconds + 30,
            )
            if reply["runStatus"] == "cancelled":
                self._lease.lose(RunCancelled(self._lease.run_id))
            self._lease.check()
            found: Dict[str, Any] = reply["wait"]
            return None if found["status"] == "pending" else found

        return await self._parking.during(begun["id"], poll)

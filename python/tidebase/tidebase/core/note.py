"""Notes: what the server is told of a step while it runs. Nothing depends on them; they are for who looks at the run."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Dict, Optional

from ..errors import TidebaseError, error_text
from .lease import Lease

#: After this long, people looking at the run want to see what it is doing.
NOTE_AFTER_S = 0.1


class Note:
    """Tells the server, after a while and without waiting for it, that a step is running; and each further try of it."""

    def __init__(self, lease: Lease, start: Dict[str, Any]) -> None:
        self._lease = lease
        self._start = start
        self._lock = threading.Lock()
        self._future: Optional["Future[None]"] = None
        self._step_id: Optional[str] = None
        self._cancelled = False
        self._forget = lease.later(NOTE_AFTER_S, self._send)

    def _send(self) -> None:
        with self._lock:
            if self._cancelled:
                return
            self._future = Future()
        try:
            self._keep(self._lease.courtesy("POST", "/steps/begin", body=self._start, timeout_s=5.0))
        finally:
            self._future.set_result(None)

    def _keep(self, reply: Any) -> None:
        if isinstance(reply, dict) and reply.get("action") == "execute":
            self._step_id = str(reply["step"]["id"])

    def cancel(self) -> None:
        """After a record a note is harmless: one under way is not waited for."""
        with self._lock:
            self._cancelled = True
        self._forget()

    async def again(self, error: Exception) -> None:
        """Before the step is tried again. Of one that nobody has heard of yet, the tries are not worth a write each."""
        if not self._future:
            return
        await self.sent()
        request = {**self._start, "lastError": error_text(error)}
        try:
            self._keep(await self._lease.call("POST", "/steps/begin", body=request, retry_for_s=0, timeout_s=5.0))
        except TidebaseError:
            self._lease.check()

    async def sent(self) -> Optional[str]:
        """Returns when a note that was under way has arrived: the step's id, where it was begun."""
        if self._future:
            await self._lease.runtime.outcome(self._future)
        return self._step_id

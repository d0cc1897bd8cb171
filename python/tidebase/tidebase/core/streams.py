"""Token streams: text for those who watch a run. Written now and then in small batches, from a daemon thread of its own,
and never waited for: watching must not slow the work. What is streamed is a courtesy; a stream that cannot be written
says nothing, because the output of the step says it all.
"""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, Dict, Optional

from ..runtime import in_thread
from .lease import Lease

#: How long text is collected before it is sent, in seconds.
COLLECT_S = 0.05
#: Characters of one call at most.
PIECE = 200_000
_LONE = re.compile("[\ud800-\udfff]")


class StreamWriter:
    """Writes one stream of a run."""

    def __init__(self, lease: Lease, name: str) -> None:
        self.name = name
        self._lease = lease
        self._changed = threading.Condition()
        # All that was written, in case the server has lost it.
        self._all = ""
        self._unsent = ""
        # Characters that the server has.
        self._offset = 0
        self._started = False
        self._closing = False
        self._stopped = False
        self._thread: Optional["Future[None]"] = None
        self._unwatch: Callable[[], None] = lambda: None

    def write(self, chunk: str) -> None:
        """Adds text. Returns at once; it is sent within 50 ms."""
        text = _LONE.sub("\ufffd", str(chunk))
        with self._changed:
            if self._stopped or self._closing or not text:
                return
            self._all += text
            self._unsent += text
            if self._thread is None:
                self._unwatch = self._lease.stop.watch(self.stop)
                self._thread = in_thread(self._send)
            self._changed.notify_all()

    async def close(self) -> None:
        """Sends what is left and waits for it. Nothing can be written afterwards."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread:
            await self._lease.runtime.outcome(thread)
        self.stop()

    def stop(self) -> None:
        """Drops what was not sent."""
        with self._changed:
            self._stopped = True
            self._all = self._unsent = ""
            self._changed.notify_all()
            unwatch = self._unwatch
        unwatch()

    def _send(self) -> None:
        while True:
            with self._changed:
                while not (self._unsent or self._closing or self._stopped):
                    self._changed.wait()
                until = time.monotonic() + COLLECT_S
                while not (self._closing or self._stopped) and time.monotonic() < until:
                    self._changed.wait(max(until - time.monotonic(), 0.001))
                piece, self._unsent = self._unsent[:PIECE], self._unsent[PIECE:]
                if self._stopped or not piece:
                    return
            try:
                reply = self._lease.post("/stream", body=self._body(piece), retry_for_s=10.0)
            except BaseException as error:  # the run is over, or the server does not take it
                if getattr(error, "code", None) != "stream_gap":
                    return self.stop()
                with self._changed:
                    self._started, self._offset, self._unsent = False, 0, self._all
                continue
            self._started = True
            self._offset += len(piece)
            if reply.get("closed"):
                return self.stop()

    def _body(self, piece: str) -> Dict[str, Any]:
        body = {"stream": self.name, "offset": self._offset, "chunk": piece, "leaseOwner": self._lease.owner}
        # The first call starts over: an attempt before this one may have left something.
        return body if self._started else {**body, "reset": True}

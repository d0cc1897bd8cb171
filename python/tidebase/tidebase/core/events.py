"""Following a run's events: backlog, then live, across lost connections and restarts of the server.

Invariants: each event comes once, in order of `seq`; leaving the loop closes the connection.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, AsyncIterator, Dict, Generator, Iterable, Iterator, List, Optional

from ..errors import TidebaseError
from ..stop import Stop
from ..transport import backoff
from .execute import Engine

ENDED = ("completed", "failed", "cancelled")
# The server sends a comment every 15 s; silence of three times that is a dead connection.
SILENCE_S = 45.0


async def follow(
    engine: Engine, run_id: str, after: int, go_on: bool, stop: Optional[Stop]
) -> AsyncIterator[Dict[str, Any]]:
    """The events of a run; see `Runs.subscribe`."""
    if after and not go_on and await _is_over(engine, run_id, after):
        return
    failures = 0
    connected = False
    while True:
        try:
            stream = await engine.runtime.blocking(lambda: _open(engine, run_id, after), stop)
        except TidebaseError as error:
            # Once connected, an outage of any length is waited out; before, a wrong address is worth an error.
            if not error.retryable or (not connected and failures > 4):
                raise
        else:
            connected = True
            unwatch = stop.watch(stream.interrupt) if stop else lambda: None
            try:
                while True:
                    event = await engine.runtime.blocking(stream.next, stop)
                    if event is None:
                        break
                    failures = 0
                    if event["seq"] <= after:
                        continue
                    after = event["seq"]
                    yield event
                    if go_on:
                        continue
                    if event["type"] in ("run.completed", "run.cancelled"):
                        return
                    if event["type"] == "run.failed" and await _is_over(engine, run_id, after):
                        return
            finally:
                unwatch()
                stream.close()
        await engine.runtime.sleep(backoff(failures), stop)
        failures += 1


class Stream:
    """One connection. Read by one thread; closed by any."""

    def __init__(self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> None:
        self._response = response
        self._connection = connection
        self._sock: Optional[socket.socket] = connection.sock
        self._messages = messages(self._lines())

    def next(self) -> Optional[Dict[str, Any]]:
        """The next event; None when the connection has ended, however it ended."""
        data = next(self._messages, None)
        return None if data is None else json.loads(data)

    def interrupt(self) -> None:
        """Ends the connection under a reader in another thread."""
        try:
            if self._sock:
                self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Ends the connection."""
        self.interrupt()
        try:
            self._messages.close()
        except ValueError:
            # Somebody is reading, finds the end now, and closes.
            return
        self._response.close()
        self._connection.close()

    def _lines(self) -> Iterator[str]:
        try:
            while True:
                line = self._response.readline()
                if not line.endswith(b"\n"):
                    # An unfinished last line is dropped, as the format asks.
                    return
                yield line.decode("utf-8", "replace").rstrip("\r\n")
        except (OSError, ValueError, http.client.HTTPException):
            return
        finally:
            self._response.close()
            self._connection.close()


def messages(lines: Iterable[str]) -> Generator[str, None, None]:
    """The data of an event stream's messages; comments and messages of another kind are left out."""
    kind = ""
    data: List[str] = []
    for line in lines:
        if line == "":
            if data and kind in ("", "message"):
                yield "\n".join(data)
            kind, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "data":
            data.append(value)
        elif field == "event":
            kind = value


def _open(engine: Engine, run_id: str, after: int) -> Stream:
    response, connection = engine.transport.open(
        "/runs/{run_id}/events", {"after": after or None}, {"accept": "text/event-stream"}, SILENCE_S, run_id=run_id
    )
    return Stream(response, connection)


async def _is_over(engine: Engine, run_id: str, after: int) -> bool:
    """Whether the run has ended and nothing happened to it after an event."""
    query = {"include": "events", "eventsAfter": after, "eventsLimit": 1}
    detail = await engine.call("GET", "/runs/{run_id}", run_id=run_id, query=query)
    return detail["run"]["status"] in ENDED and not detail["events"]

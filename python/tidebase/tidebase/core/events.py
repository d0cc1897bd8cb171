"""Following events, of a run or of the project: backlog, then live, across lost connections and restarts of the server.

Invariants: each event comes once, in order of `seq`; leaving the loop closes the connection.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, AsyncGenerator, AsyncIterator, Callable, Dict, Generator, Iterable, Iterator, List, Optional
from typing import Tuple, Union
from urllib.parse import quote

from ..errors import TidebaseError
from ..stop import Stop
from ..transport import backoff
from .execute import Engine

ENDED = ("completed", "failed", "cancelled")
# The server sends a comment every 15 s; silence of three times that is a dead connection.
SILENCE_S = 45.0


OnChunk = Callable[[Dict[str, Any]], None]


async def follow(
    engine: Engine, run_id: str, after: int, go_on: bool, on_chunk: Optional[OnChunk], stop: Optional[Stop]
) -> AsyncIterator[Dict[str, Any]]:
    """The events of a run; see `Runs.subscribe`."""
    if after and not go_on and await _is_over(engine, run_id, after):
        return
    offsets: Dict[str, int] = {}

    def connect() -> Stream:
        return _open(engine, "/runs/{run_id}/events", {"after": after or None, "offsets": _places(offsets)}, run_id)

    coming = _messages(engine, connect, stop)
    try:
        async for kind, event in coming:
            if kind == "chunk":
                if on_chunk:
                    offsets[event["stream"]] = event["offset"] + len(event["chunk"])
                    on_chunk(event)
                continue
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
        await coming.aclose()


async def feed(engine: Engine, after: Union[int, str], stop: Optional[Stop]) -> AsyncIterator[Dict[str, Any]]:
    """The events of a project; see `Tidebase.events`."""

    def connect() -> Stream:
        return _open(engine, "/events", {"after": after})

    coming = _messages(engine, connect, stop)
    try:
        async for kind, event in coming:
            if kind == "message":
                after = event["id"]
                yield event
    finally:
        await coming.aclose()


async def _messages(
    engine: Engine, connect: "Callable[[], Stream]", stop: Optional[Stop]
) -> AsyncGenerator[Tuple[str, Dict[str, Any]], None]:
    """What comes over one connection after the other."""
    failures = 0
    connected = False
    while True:
        try:
            stream = await engine.runtime.blocking(connect, stop)
        except TidebaseError as error:
            # Once connected, an outage of any length is waited out; before, a wrong address is worth an error.
            if not error.retryable or (not connected and failures > 4):
                raise
        else:
            connected = True
            unwatch = stop.watch(stream.interrupt) if stop else lambda: None
            try:
                while True:
                    message = await engine.runtime.blocking(stream.next, stop)
                    if message is None:
                        break
                    failures = 0
                    yield message
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

    def next(self) -> Optional[Tuple[str, Dict[str, Any]]]:
        """The next message and its kind; None when the connection has ended, however it ended."""
        message = next(self._messages, None)
        return message and (message[0], json.loads(message[1]))

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


def messages(lines: Iterable[str]) -> Generator[Tuple[str, str], None, None]:
    """The messages of an event stream that are ours, ``message`` or ``chunk``, each with its data."""
    kind = ""
    data: List[str] = []
    for line in lines:
        if line == "":
            if data and kind in ("", "message", "chunk"):
                yield kind or "message", "\n".join(data)
            kind, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "data":
            data.append(value)
        elif field == "event":
            kind = value


def _open(engine: Engine, path: str, query: Dict[str, Any], run_id: str = "") -> Stream:
    params = {"run_id": run_id} if run_id else {}
    headers = {"accept": "text/event-stream"}
    return Stream(*engine.transport.open(path, query, headers, SILENCE_S, **params))


def _places(offsets: Dict[str, int]) -> Optional[str]:
    """Where a new connection goes on; the last few streams, because an address has its limits."""
    parts = [f"{quote(name, safe='')}:{offset}" for name, offset in list(offsets.items())[-5:]]
    return ",".join(parts) or None


async def _is_over(engine: Engine, run_id: str, after: int) -> bool:
    """Whether the run has ended and nothing happened to it after an event."""
    query = {"include": "events", "eventsAfter": after, "eventsLimit": 1}
    detail = await engine.call("GET", "/runs/{run_id}", run_id=run_id, query=query)
    return detail["run"]["status"] in ENDED and not detail["events"]

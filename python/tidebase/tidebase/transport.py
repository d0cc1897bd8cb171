"""Transport: the one way to the server.

Invariants: a call is repeated only while no usable answer comes (every route is safe to repeat); every try has a time
limit; the API key appears in no error and no repr; a connection is used by one thread at a time and never by a forked
child of the process that opened it.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import re
import select
import socket
import ssl
import threading
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple
from urllib.parse import quote, urlencode, urlsplit

from .errors import RunLeasedError, TidebaseError, UnreachableError, error_from_reply, to_json
from .stop import Stop

# A server that never answered is more likely not there than restarting: say so soon.
FIRST_CONTACT_S = 3.0
# A server that fails to answer may fail for this very request; it is not asked for as long as one that is away.
INTERNAL_ERROR_TRIES = 3
IDLE_CONNECTIONS = 64


def backoff(attempt: int, base: float = 0.1, cap: float = 5.0) -> float:
    """Seconds until the next try: doubling from ``base``, at most ``cap``, less up to half at random."""
    return float(min(base * 2 ** min(attempt, 30), cap) * (0.5 + random.random() / 2))


class Transport:
    """Makes calls to one server, over connections that are kept open."""

    def __init__(self, url: str, api_key: Optional[str], retry_for_s: float, timeout_s: float) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise TidebaseError(
                "The given URL is not the address of a server.",
                code="invalid_url",
                hint="Set TIDEBASE_URL to an http or https address, such as http://127.0.0.1:7373.",
            )
        key = (api_key or "").strip()
        if key and not re.fullmatch(r"[\x21-\x7e]+", key):
            raise TidebaseError(
                "The API key has characters that no key has.",
                code="invalid_api_key",
                hint="Check TIDEBASE_API_KEY: it must be one word without spaces or line breaks.",
            )
        self._host, self._port = parts.hostname, port
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._path = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{host}{f':{port}' if port else ''}{self._path}"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = {"accept": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._retry_for_s = retry_for_s
        self._timeout_s = timeout_s
        self._reached = False
        self._lock = threading.Lock()
        self._idle: List[http.client.HTTPConnection] = []
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Optional[Mapping[str, Any]] = None,
        body: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
        stop: Optional[Stop] = None,
        timeout_s: Optional[float] = None,
        retry_for_s: Optional[float] = None,
        **params: str,
    ) -> Any:
        """Calls a route and blocks until it has answered.

        Args:
            path: with ``{name}`` for each of ``params``.
            query: absent values (None) are left out.
            body: is sent as JSON.
            stop: gives the call up; it then raises the stop's reason.
            timeout_s: how long one try may be silent, in seconds.
            retry_for_s: how long the call is repeated while no usable answer comes, in seconds; 0 tries once.

        Raises:
            TidebaseError: (or the class for its code) when the server refuses.
            UnreachableError: when no answer came in time.
        """
        text = None if body is None else to_json(body, f"{method} {path}").encode("ascii")
        sent = {**self._headers, **(headers or {})}
        if text is not None:
            sent["content-type"] = "application/json"
        target = self._path + fill(path, params) + query_string(query)
        run_id = params.get("run_id", "")
        started = time.monotonic()
        attempt = 0
        while True:
            if stop:
                stop.check()
            retry_after: Optional[float] = None
            try:
                status, header, answer = self._exchange(method, target, text, sent, stop, timeout_s)
                if 200 <= status < 300:
                    return self._parse(status, answer)
                raise self._refusal(status, header, answer, run_id)
            except TidebaseError as error:
                if stop:
                    stop.check()
                if not error.retryable or isinstance(error, RunLeasedError):
                    raise
                if error.status == 500 and attempt + 1 >= INTERNAL_ERROR_TRIES:
                    raise
                patience = self._patience() if retry_for_s is None else retry_for_s
                retry_after = getattr(error, "_retry_after", None)
                pause = max(backoff(attempt), retry_after or 0.0)
                if time.monotonic() - started + pause > patience:
                    raise
            if stop:
                stop.wait(pause)
            else:
                time.sleep(pause)
            attempt += 1

    def close(self) -> None:
        """Closes the connections that are idle. Calls may still be made."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def open(
        self, path: str, query: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float, **params: str
    ) -> Tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        """Opens an answer that goes on for long, on a connection of its own, which is the caller's to close.

        Raises:
            TidebaseError: as ``call``, without repeating.
        """
        target = self._path + fill(path, params) + query_string(query)
        connection = self._connect(timeout_s)
        try:
            connection.request("GET", target, headers={**self._headers, **headers})
            response = connection.getresponse()
            self._reached = True
            if response.status == 200:
                return response, connection
            raise self._refusal(response.status, response.getheader, response.read(), params.get("run_id", ""))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise UnreachableError(self.url, _network_text(error)) from None
        except BaseException:
            connection.close()
            raise

    def _exchange(
        self,
        method: str,
        target: str,
        body: Optional[bytes],
        headers: Mapping[str, str],
        stop: Optional[Stop],
        timeout_s: Optional[float],
    ) -> Tuple[int, Callable[[str], Optional[str]], bytes]:
        limit = self._timeout_s if timeout_s is None else timeout_s
        while True:
            connection, used = self._take(limit)
            unwatch = stop.watch(lambda: _break(connection)) if stop else None
            done = False
            try:
                if connection.sock is None:
                    connection.connect()
                if stop:
                    stop.check()
                connection.request(method, target, body=body, headers=dict(headers))
                response = connection.getresponse()
                answer = response.read()
                self._reached = True
                done = not response.will_close
                return response.status, response.getheader, answer
            except (socket.timeout, TimeoutError):
                raise UnreachableError(self.url, f"no answer within {round(limit * 1000)} ms") from None
            except (OSError, http.client.HTTPException) as error:
                # The server closed an idle connection in the moment it was used again: that says nothing about it.
                if used and not (stop and stop.stopped):
                    continue
                raise UnreachableError(self.url, _network_text(error)) from None
            finally:
                if unwatch:
                    unwatch()
                if done and not (stop and stop.stopped):
                    self._give_back(connection)
                else:
                    connection.close()

    def _take(self, limit: float) -> Tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._pid != os.getpid():
                # Forked: the parent's connections are the parent's. Closing our copies does not end them.
                for connection in self._idle:
                    connection.close()
                self._idle, self._pid = [], os.getpid()
            while self._idle:
                connection = self._idle.pop()
                if connection.sock and not _readable(connection.sock):
                    connection.sock.settimeout(limit)
                    return connection, True
                connection.close()
        return self._connect(limit), False

    def _connect(self, limit: float) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(self._host, self._port, timeout=limit, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=limit)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS and self._pid == os.getpid():
                self._idle.append(connection)
                return
        connection.close()

    def _patience(self) -> float:
        return self._retry_for_s if self._reached else min(self._retry_for_s, FIRST_CONTACT_S)

    def _parse(self, status: int, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError:
            raise TidebaseError(
                f"{self.url} answered {status} with something that is not JSON.",
                code="bad_reply",
                hint="Check that TIDEBASE_URL is the address of a Tidebase server, not of a proxy's page.",
                status=status,
            ) from None

    def _refusal(
        self, status: int, header: Callable[[str], Optional[str]], answer: bytes, run_id: str
    ) -> TidebaseError:
        if status < 400:
            return TidebaseError(
                f"{self.url} redirects to {header('location') or 'another address'}.",
                code="redirected",
                hint="Set TIDEBASE_URL to the address it redirects to, when you trust it: redirects are not followed.",
                status=status,
            )
        try:
            body = json.loads(answer)
        except ValueError:
            body = None
        error = error_from_reply(status, body, run_id)
        setattr(error, "_retry_after", retry_after_s(header("retry-after")))
        return error


def fill(path: str, params: Mapping[str, str]) -> str:
    """A path with its ``{parameters}`` filled in.

    Raises:
        TidebaseError: ``invalid_name`` for a parameter that cannot stand in a path.
    """
    filled: Dict[str, str] = {}
    for key, value in params.items():
        # Dots alone would be taken for folders on the way, however they are written.
        if not isinstance(value, str) or value in ("", ".", "..") or re.search("[\ud800-\udfff]", value):
            raise TidebaseError(
                f"{key} must not be {value!r}.",
                code="invalid_name",
                hint='Give a name or id that is not empty, "." or "..".',
            )
        filled[key] = quote(value, safe="")
    return path.format(**filled)


def query_string(query: Optional[Mapping[str, Any]]) -> str:
    """``?a=b``, or nothing."""
    given = [
        (key, str(value).lower() if isinstance(value, bool) else str(value))
        for key, value in (query or {}).items()
        if value is not None
    ]
    return f"?{urlencode(given)}" if given else ""


def retry_after_s(header: Optional[str]) -> Optional[float]:
    """Seconds from a Retry-After header: seconds or an HTTP date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _readable(sock: socket.socket) -> bool:
    """An idle connection has nothing to say, unless its end."""
    try:
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True


def _break(connection: http.client.HTTPConnection) -> None:
    """Ends a call that another thread waits in."""
    sock = connection.sock
    try:
        if sock:
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _network_text(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, (ConnectionError, http.client.RemoteDisconnected, http.client.IncompleteRead)):
        return "connection lost"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "no answer in time"
    return str(error) or type(error).__name__

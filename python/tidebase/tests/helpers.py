"""What the tests share: the server (TIDEBASE_URL names it), and waiting for things to happen."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from tidebase import Stop, Tidebase

CONFORMANCE = Path(__file__).resolve().parents[3] / "test" / "conformance"
SECRET = "shh"
#: How long leases of the tests' server last, in seconds.
LEASE_S = float(os.environ.get("TEST_LEASE_MS", "600")) / 1000
_names = itertools.count()


def vectors(name: str) -> Any:
    """A file that every SDK's tests read."""
    return json.loads((CONFORMANCE / name).read_text("utf-8"))


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{os.getpid()}-{next(_names)}"


def until(condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """What a condition gives as soon as it is true."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("it did not happen in time")
        time.sleep(0.02)


class Watched(Tidebase):
    """A client whose requests are counted and may lose their answers.

    Attributes:
        requests: what went out, ``POST /runs/:id/begin``.
        fault: decides about each request: its answer is lost ``"before"`` or ``"after"`` the server has seen it, comes
            ``"late"`` by the length of a lease, or None.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.requests: List[str] = []
        self.fault: Callable[[str, Dict[str, Any]], Optional[str]] = lambda request, body: None
        real = self._transport._exchange

        def exchange(method: str, target: str, body: Any, *rest: Any) -> Any:
            from re import sub

            from tidebase import UnreachableError

            request = f"{method} {sub(r'/(run|step|gate|wait)_[0-9a-f]{32}', '/:id', target.split('?')[0])}"
            self.requests.append(request)
            fault = self.fault(request, json.loads(body) if body else {})
            answer = None if fault == "before" else real(method, target, body, *rest)
            if fault == "late":
                time.sleep(LEASE_S)
            elif fault:
                raise UnreachableError(self.url, "connection lost")
            return answer

        self._transport._exchange = exchange  # type: ignore[method-assign, assignment]


class ServerTest(unittest.TestCase):
    """A test with a client of the server."""

    def setUp(self) -> None:
        self.tide = self.client()

    def client(self) -> Watched:
        """One more client."""
        client = Watched(webhook_secret=SECRET)
        self.addCleanup(client.close)
        return client

    def detail(self, run_id: str) -> Dict[str, Any]:
        return self.tide.runs.get(run_id)

    def status(self, run_id: str) -> str:
        return str(self.tide.runs.get(run_id, include=["run"])["run"]["status"])

    def worker(self, workflow: Callable[..., Any], **options: Any) -> "Working":
        """A worker of its own with one workflow on one queue, stopped after the test."""
        working = Working(workflow, options)
        self.addCleanup(working.end)
        return working


class Working:
    """A worker in a thread. What it complains about is collected."""

    def __init__(self, workflow: Callable[..., Any], options: Dict[str, Any]) -> None:
        self.name = unique("wf")
        self.tide = Watched(webhook_secret=SECRET)
        self.tide.workflow(self.name, workflow)
        self.stop = Stop()
        self.errors: List[BaseException] = []
        self.raised: Optional[BaseException] = None
        given = {"wait_s": 0.5, "park_after_s": 0.1, "grace_s": 0.1, **options}
        self._thread = threading.Thread(target=self._work, args=[given])
        self._thread.start()

    def _work(self, options: Dict[str, Any]) -> None:
        try:
            self.tide.work([self.name], stop=self.stop, on_error=lambda error, run: self.errors.append(error), **options)
        except BaseException as error:
            self.raised = error

    def enqueue(self, input: Any = None, **options: Any) -> str:
        return str(self.tide.enqueue(self.name, queue=self.name, input=input, **options).run["id"])

    def end(self) -> None:
        self.stop.stop()
        self._thread.join()
        self.tide.close()

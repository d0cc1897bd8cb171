"""The way to the server: addresses, keys, outages, and what errors say."""

from __future__ import annotations

import os
import socket
import threading
import time
import unittest
from unittest import mock

from tidebase import Stop, Tidebase, TidebaseError, UnreachableError, new_run_id
from tidebase.errors import error_text
from tidebase.transport import backoff, retry_after_s

from .helpers import ServerTest, unique

KEY = "tb_very-secret-key"


class Client(unittest.TestCase):
    def test_the_environment_names_server_and_key_and_what_is_given_wins(self) -> None:
        with mock.patch.dict(os.environ, {"TIDEBASE_URL": "http://a:1/", "TIDEBASE_API_KEY": KEY}):
            self.assertEqual(Tidebase().url, "http://a:1")
            self.assertEqual(Tidebase("https://b/base/").url, "https://b/base")
            self.assertNotIn(KEY, repr(Tidebase()) + repr(Tidebase()._transport))
        self.assertEqual(Tidebase("http://user:pw@[::1]:7/").url, "http://[::1]:7")

    def test_what_is_not_an_address_or_a_key(self) -> None:
        for url in ("nonsense", "ftp://x", "localhost:7373", "http://", "http://a:b"):
            with self.assertRaises(TidebaseError) as raised:
                Tidebase(url)
            self.assertEqual(raised.exception.code, "invalid_url")
        with self.assertRaises(TidebaseError) as raised:
            Tidebase(api_key=f"{KEY}\nx")
        self.assertEqual(raised.exception.code, "invalid_api_key")
        self.assertNotIn(KEY, str(raised.exception))

    def test_run_ids(self) -> None:
        ids = [new_run_id() for _ in range(100)]
        self.assertEqual(len(set(ids)), 100)
        for each in ids:
            self.assertRegex(each, r"^run_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$")
        time.sleep(0.002)
        self.assertGreater(new_run_id(), ids[0])

    def test_a_server_that_is_not_there(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        tide = Tidebase(f"http://127.0.0.1:{port}", api_key=KEY, retry_for_s=0.2)
        started = time.monotonic()
        with self.assertRaises(UnreachableError) as raised:
            tide.runs.list()
        self.assertLess(time.monotonic() - started, 1)
        self.assertIn(f"http://127.0.0.1:{port}: connection refused", str(raised.exception))
        self.assertIn("npx tidebase start", raised.exception.hint)
        self.assertNotIn(KEY, repr(raised.exception) + str(vars(raised.exception)))

    def test_a_server_that_says_nothing_is_given_up_and_a_stop_ends_the_wait(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            tide = Tidebase(f"http://127.0.0.1:{silent.getsockname()[1]}", retry_for_s=0, timeout_s=0.05)
            with self.assertRaises(UnreachableError) as raised:
                tide.runs.list()
            self.assertIn("no answer within 50 ms", str(raised.exception))
            stop = Stop()
            threading.Timer(0.05, stop.stop, [KeyError("enough")]).start()
            started = time.monotonic()
            with self.assertRaises(KeyError):
                tide._transport.call("GET", "/runs", stop=stop, timeout_s=20, retry_for_s=20)
            self.assertLess(time.monotonic() - started, 1)

    def test_pauses(self) -> None:
        for attempt, most in ((0, 0.1), (1, 0.2), (50, 5.0)):
            for _ in range(20):
                pause = backoff(attempt)
                self.assertTrue(most / 2 <= pause <= most)
        self.assertEqual(retry_after_s("2"), 2)
        self.assertEqual(retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT"), 0)
        self.assertIsNone(retry_after_s("soon"))

    def test_the_text_of_an_error(self) -> None:
        self.assertEqual(error_text(ValueError("no")), "ValueError: no")
        self.assertEqual(error_text(Exception("no")), "no")
        self.assertEqual(error_text(KeyError()), "KeyError")
        self.assertEqual(error_text(TidebaseError("one", code="x", hint="y")), "one")
        self.assertEqual(len(error_text(ValueError("x" * 20_000))), 10_000)


class Calls(ServerTest):
    def test_errors_of_the_server_keep_status_code_hint_and_issues(self) -> None:
        with self.assertRaises(TidebaseError) as raised:
            self.tide.runs.get(new_run_id())
        self.assertEqual((raised.exception.status, raised.exception.code), (404, "run_not_found"))
        self.assertTrue(raised.exception.hint)
        with self.assertRaises(TidebaseError) as raised:
            self.tide.enqueue("x", max_attempts=0)
        self.assertEqual(raised.exception.status, 400)
        self.assertEqual(raised.exception.issues[0]["path"], "maxAttempts")

    def test_names_that_are_none(self) -> None:
        for name in ("", ".", "..", "\ud800"):
            with self.assertRaises(TidebaseError) as raised:
                self.tide.runs.create(name)
            self.assertEqual(raised.exception.code, "invalid_name")
        self.assertEqual(self.tide.requests, [])

    def test_what_is_not_json(self) -> None:
        circle: list = []  # type: ignore[type-arg]
        circle.append(circle)
        for value in (object(), circle, float("nan"), {"a": b"x"}):
            with self.assertRaises(TidebaseError) as raised:
                self.tide.runs.create("x", input=value)
            self.assertEqual(raised.exception.code, "not_json")

    def test_a_connection_that_the_server_closed_meanwhile(self) -> None:
        self.tide.runs.list(limit=1)
        # As a proxy would, without a word.
        for connection in self.tide._transport._idle:
            connection.sock.shutdown(socket.SHUT_RDWR)
        self.tide.runs.list(limit=1)

    def test_a_forked_child_does_not_use_its_parents_connections(self) -> None:
        name = unique("forked")
        self.tide.runs.list(limit=1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(20):
                    self.tide.runs.create(name)
                code = 0
            finally:
                os._exit(code)
        for _ in range(20):
            self.tide.runs.create(name)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(len(self.tide.runs.list(workflow=name)["runs"]), 40)

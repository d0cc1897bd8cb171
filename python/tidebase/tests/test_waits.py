"""Waiting from a workflow: in place for a short while, without a worker for a long one."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any, List

from tidebase import ManualReviewError, TidebaseError

from .helpers import LEASE_S, ServerTest, unique, until


class Waits(ServerTest):
    def test_a_short_sleep_and_a_signal_that_is_there_are_waited_for_in_place(self) -> None:
        seen: List[int] = []

        def workflow(run: Any) -> Any:
            seen.append(run.attempt)
            run.sleep(0.02)
            run.sleep(timedelta(milliseconds=5))
            run.sleep(datetime.now(timezone.utc), name="now")
            word = run.wait_for_signal("word")
            return [word.payload, run.wait_for_signal("word", timeout_s=0.03)]

        worker = self.worker(workflow, park_after_s=5)
        run_id = worker.enqueue()
        self.tide.runs.signal(run_id, "word", "hello")
        self.assertEqual(self.tide.runs.wait(run_id, timeout_s=10)["result"], ["hello", None])
        self.assertEqual((seen, worker.errors), ([1], []))

    def test_a_long_gate_parks_the_run_and_the_decision_brings_it_back(self) -> None:
        seen: List[str] = []

        def workflow(run: Any) -> Any:
            run.step("before", lambda: seen.append("before"))
            try:
                return run.gate("long").approved
            except Exception:
                seen.append("caught")
                raise
            finally:
                seen.append("left")

        worker = self.worker(workflow)
        run_id = worker.enqueue()
        until(lambda: self.status(run_id) == "waiting")
        detail = self.detail(run_id)
        self.assertIsNone(detail["run"]["leaseOwner"])
        gate = detail["gates"][0]
        self.tide.runs.resolve_gate(run_id, gate["id"], "approved", token=gate["resolveToken"])
        run = self.tide.runs.wait(run_id, timeout_s=10)
        self.assertEqual((run["result"], run["attempt"]), (True, 1))
        self.assertEqual((seen, worker.errors), (["before", "left", "left"], []))

    def test_a_heartbeat_that_learns_of_parking_sooner_than_who_parks_is_no_error(self) -> None:
        worker = self.worker(lambda run: run.wait_for_signal("word").payload)
        worker.tide.fault = lambda request, body: "late" if request.endswith("/park") else None
        run_id = worker.enqueue()
        until(lambda: self.status(run_id) == "waiting")
        time.sleep(LEASE_S)
        self.tide.runs.signal(run_id, "word", "hello")
        self.assertEqual(self.tide.runs.wait(run_id, timeout_s=10)["result"], "hello")
        self.assertEqual(worker.errors, [])

    def test_a_run_parks_only_when_everything_in_it_waits(self) -> None:
        done = threading.Event()
        attempts: List[int] = []

        def workflow(run: Any) -> Any:
            attempts.append(1)
            busy = threading.Thread(target=lambda: run.step("busy", lambda: done.wait(10)))
            busy.start()
            run.sleep(0.6)
            busy.join()
            return "end"

        worker = self.worker(workflow)
        run_id = worker.enqueue()
        time.sleep(0.4)
        self.assertEqual(self.status(run_id), "running")
        done.set()
        self.assertEqual(self.tide.runs.wait(run_id, timeout_s=10)["result"], "end")

    def test_a_run_that_nothing_would_execute_again_waits_in_place(self) -> None:
        self.assertEqual(self.tide.run("in-place", lambda run: run.sleep(0.3) or run.attempt), 1)

    def test_cancelling_a_parked_run_ends_it(self) -> None:
        worker = self.worker(lambda run: run.wait_for_signal("never"))
        run_id = worker.enqueue()
        until(lambda: self.status(run_id) == "waiting")
        self.tide.runs.cancel(run_id)
        self.assertEqual(self.tide.runs.wait(run_id)["status"], "cancelled")

    def test_a_step_whose_worker_died_asks_for_a_decision(self) -> None:
        def pay(run: Any) -> Any:
            return run.step("pay", lambda: "twice", side_effects=["pay"])

        worker = self.worker(pay)
        queued = self.tide.enqueue("pay", queue=unique("nobody")).run["id"]
        plain = self.tide.runs.create("pay")["id"]
        for run_id in (queued, plain):
            held = self.tide.runs.attach(run_id)
            self.tide._transport.call(
                "POST",
                "/runs/{run_id}/steps/begin",
                run_id=run_id,
                body={
                    "name": "pay",
                    "inputHash": "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
                    "options": {"sideEffects": ["pay"]},
                    "leaseOwner": held._lease.owner,
                },
            )
            held.detach()
        time.sleep(LEASE_S + 0.1)
        with self.assertRaises(ManualReviewError) as raised:
            self.tide.run("pay", pay, run_id=plain)
        self.assertIn(raised.exception.step_id, raised.exception.hint)
        self.assertEqual(self.detail(plain)["run"]["failureClass"], "manual_review")
        self.tide.runs.resolve_step(plain, raised.exception.step_id, "complete", output="once", actor="me")
        self.assertEqual(self.tide.run("pay", pay, run_id=plain), "once")
        with self.assertRaises(TidebaseError) as again:
            self.tide.runs.resolve_step(plain, raised.exception.step_id, "retry")
        self.assertEqual(again.exception.code, "step_not_in_review")
        self.assertEqual(worker.errors, [])

"""Workers: claims, stops, outages; and what queues and schedules offer from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, List

from tidebase import Stop, Tidebase, TidebaseError, UnreachableError, job

from .helpers import SECRET, ServerTest, unique, until


class Workers(ServerTest):
    def test_works_off_a_queue_so_many_at_a_time(self) -> None:
        lock = threading.Lock()
        active = [0, 0]

        def work(run: Any, input: Any) -> Any:
            with lock:
                active[0] += 1
                active[1] = max(active)
            time.sleep(0.02)
            with lock:
                active[0] -= 1
            return input

        worker = self.worker(work, concurrency=3)
        jobs = [job(worker.name, input=n) for n in range(12)]
        runs = self.tide.queues.enqueue_all(worker.name, jobs)
        self.assertEqual([self.tide.runs.wait(each.run["id"], timeout_s=15)["result"] for each in runs], list(range(12)))
        self.assertEqual(active[1], 3)

    def test_a_stop_lets_what_runs_end_and_claims_no_more(self) -> None:
        begun = threading.Event()

        def work(run: Any) -> str:
            begun.set()
            time.sleep(0.2)
            return "end"

        worker = self.worker(work, grace_s=10)
        run_id = worker.enqueue()
        begun.wait(10)
        worker.end()
        self.assertEqual(self.detail(run_id)["run"]["result"], "end")
        later = worker.enqueue()
        self.assertEqual(self.status(later), "queued")

    def test_what_does_not_end_within_the_grace_is_queued_again(self) -> None:
        begun, never = threading.Event(), threading.Event()

        def work(run: Any) -> None:
            begun.set()
            never.wait(20)

        worker = self.worker(work, grace_s=0.05)
        run_id = worker.enqueue(max_attempts=2)
        begun.wait(10)
        worker.end()
        never.set()
        run = self.detail(run_id)["run"]
        self.assertEqual((run["status"], run["attempt"]), ("queued", 1))
        self.assertIsInstance(worker.errors[0], TidebaseError)
        self.assertEqual(getattr(worker.errors[0], "code"), "worker_stopped")

    def test_a_failure_is_told_and_recorded_and_a_workflow_nobody_registered_too(self) -> None:
        def work(run: Any) -> None:
            raise ValueError("no")

        worker = self.worker(work)
        failed = worker.enqueue()
        unknown = self.tide.enqueue("unknown", queue=worker.name).run["id"]
        self.assertEqual(self.tide.runs.wait(failed, timeout_s=10)["error"], "ValueError: no")
        run = self.tide.runs.wait(unknown, timeout_s=10)
        self.assertEqual(run["failureClass"], "workflow_not_registered")
        until(lambda: len(worker.errors) == 2)

    def test_cancelling_frees_the_worker_of_a_run_that_does_not_listen(self) -> None:
        begun, never = threading.Event(), threading.Event()

        def work(run: Any, input: Any) -> Any:
            if input == "quick":
                return "quick"
            begun.set()
            never.wait(20)

        worker = self.worker(work, concurrency=1)
        stuck = worker.enqueue("stuck")
        begun.wait(10)
        self.tide.runs.cancel(stuck)
        self.assertEqual(self.tide.runs.wait(worker.enqueue("quick"), timeout_s=10)["result"], "quick")
        never.set()

    def test_an_outage_is_waited_out_and_told_once(self) -> None:
        worker = self.worker(lambda run: "end", wait_s=0.1)
        down = [True]
        worker.tide.fault = lambda request, _: "before" if down[0] and request.endswith("/claim") else None
        until(lambda: worker.errors)
        run_id = worker.enqueue()
        down[0] = False
        self.assertEqual(self.tide.runs.wait(run_id, timeout_s=15)["result"], "end")
        self.assertEqual([type(each) for each in worker.errors], [UnreachableError])

    def test_a_refusal_ends_the_worker(self) -> None:
        with self.assertRaises(TidebaseError) as raised:
            self.tide.work([""], stop=Stop())
        self.assertEqual(raised.exception.code, "invalid_body")
        with self.assertRaises(ValueError):
            self.tide.work(concurrency=0)
        with self.assertRaises(TypeError):
            self.tide.work("default")
        stopped = Stop()
        stopped.stop()
        self.tide.requests.clear()
        self.tide.work(stop=stopped)
        self.assertEqual(self.tide.requests, [])

    def test_sigterm_stops_a_worker_process(self) -> None:
        name = unique("process")
        program = f"""
from tidebase import Tidebase
tide = Tidebase()
@tide.workflow({name!r})
def work(run):
    print("begun", flush=True)
    import time; time.sleep(0.3)
    return "end"
tide.work([{name!r}], wait_s=0.3)
print("stopped", flush=True)
"""
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        run_id = self.tide.enqueue(name, queue=name).run["id"]
        assert process.stdout
        with process.stdout:
            self.assertEqual(process.stdout.readline(), "begun\n")
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.stdout.read(), "stopped\n")
        self.assertEqual(process.wait(), 0)
        self.assertEqual(self.detail(run_id)["run"]["result"], "end")

    def test_queues_and_schedules_from_outside(self) -> None:
        queue = unique("queue")
        config = self.tide.queues.configure(queue, concurrency=2, rate_per_minute=60)
        self.assertEqual((config["concurrency"], config["ratePerMinute"]), (2, 60))
        config = self.tide.queues.configure(queue, rate_per_minute=None)
        self.assertEqual((config["concurrency"], config["ratePerMinute"]), (2, None))
        self.tide.queues.pause(queue)
        first = self.tide.enqueue("x", queue=queue, delay_s=60, priority=3, dedupe_key="k", metadata={"a": 1})
        self.assertEqual(self.tide.enqueue("x", queue=queue, dedupe_key="k").deduplicated, True)
        self.assertEqual((first.run["priority"], first.run["metadata"]), (3, {"a": 1}))
        self.tide.queues.resume(queue)
        self.assertEqual([each["queued"] for each in self.tide.queues.list() if each["name"] == queue], [1])
        schedule = self.tide.schedules.set(
            queue, cron="0 9 * * 1-5", timezone="Europe/Berlin", workflow_name="x", queue=queue
        )
        self.assertEqual(len(schedule["nextRuns"]), 5)
        self.assertIn(queue, [each["name"] for each in self.tide.schedules.list()])
        self.assertEqual(self.tide.schedules.trigger(queue)["queue"], queue)
        self.tide.schedules.delete(queue)
        with self.assertRaises(TidebaseError) as raised:
            self.tide.schedules.delete(queue)
        self.assertEqual(raised.exception.code, "schedule_not_found")


class Webhooks(ServerTest):
    def test_a_delivery_is_verified_and_executed_afterwards(self) -> None:
        import json

        from tidebase import sign_webhook

        name = unique("hooked")
        errors: List[Any] = []
        self.tide.workflow(name, lambda run, input: input["n"] // 1)

        def deliver(payload: Any, signature: Any = None) -> Any:
            body = json.dumps(payload).encode()
            return self.tide.webhook(
                body, signature or sign_webhook(SECRET, body), on_error=lambda error, run_id: errors.append(run_id)
            )

        run_id = self.tide.runs.create(name, input={"n": 7})["id"]
        payload = {"type": "run.resume", "runId": run_id, "workflowName": name, "reason": "x", "attempt": 1}
        self.assertEqual(deliver(payload, "sha256=0").status, 401)
        self.assertEqual(deliver({**payload, "type": "gate.created"}).status, 422)
        self.assertEqual(deliver([]).status, 422)
        self.assertEqual(deliver({**payload, "workflowName": "other"}).body["code"], "workflow_not_registered")
        self.assertEqual(self.status(run_id), "pending")
        reply = deliver(payload)
        self.assertEqual((reply.status, reply.body), (202, {"accepted": True, "runId": run_id}))
        deliver(payload)
        self.assertEqual(self.tide.runs.wait(run_id, timeout_s=10)["result"], 7)
        bad = self.tide.runs.create(name, input={})["id"]
        deliver({**payload, "runId": bad})
        until(lambda: errors == [bad])
        with self.assertRaises(TidebaseError) as raised:
            Tidebase().webhook(b"", None)
        self.assertEqual(raised.exception.code, "webhook_secret_missing")
        self.assertNotIn(SECRET, repr(self.tide))
        self.assertNotIn("TIDEBASE_WEBHOOK_SECRET", os.environ)

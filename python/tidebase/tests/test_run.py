"""Executions against a real server: who holds a run, what ends it, and what survives lost answers."""

from __future__ import annotations

import threading
import time
from typing import Any, Dict, List

from tidebase import (
    LeaseLostError,
    RunCancelled,
    RunLeasedError,
    Stop,
    TidebaseError,
    new_run_id,
)

from .helpers import LEASE_S, ServerTest, Watched, unique, until


class Runs(ServerTest):
    def in_thread(self, *args: Any, **options: Any) -> "Outcome":
        return Outcome(self.tide, args, options)

    def test_a_completed_run_gives_its_recorded_result(self) -> None:
        ran: List[str] = []

        def once(run: Any) -> Any:
            ran.append(run.id)
            return {"id": run.id}

        first = self.tide.run("once", once)
        self.assertEqual(self.tide.run("once", once, run_id=first["id"]), first)
        self.assertEqual(ran, [first["id"]])

    def test_a_workflow_of_another_name_and_one_nobody_registered(self) -> None:
        run_id = self.tide.runs.create("one")["id"]
        with self.assertRaises(TidebaseError) as raised:
            self.tide.run("two", lambda run: 1, run_id=run_id)
        self.assertEqual(raised.exception.code, "workflow_mismatch")
        self.assertEqual(self.detail(run_id)["run"]["attempt"], 0)
        self.tide.requests.clear()
        with self.assertRaises(TidebaseError) as raised:
            self.tide.run("unknown")
        self.assertEqual(raised.exception.code, "workflow_not_registered")
        self.assertEqual(self.tide.requests, [])

    def test_registered_workflows(self) -> None:
        @self.tide.workflow("double")
        def double(run: Any, input: Dict[str, int]) -> int:
            """Twice."""
            return input["n"] * 2

        self.assertEqual(self.tide.run(double, input={"n": 4}), 8)
        self.assertEqual(self.tide.run("double", input={"n": 5}), 10)
        self.assertEqual(double(None, {"n": 6}), 12)
        self.assertEqual((double.name, double.__doc__), ("double", "Twice."))

    def test_an_async_function_is_refused(self) -> None:
        async def later(run: Any) -> None: ...

        with self.assertRaises(TidebaseError) as raised:
            self.tide.run("later", later)
        self.assertEqual(raised.exception.code, "async_function")

    def test_heartbeats_keep_a_run_for_as_long_as_it_takes(self) -> None:
        rival = self.client()

        def long(run: Any) -> None:
            run.step("call", lambda: time.sleep(LEASE_S * 1.5), side_effects=["pay"])
            with self.assertRaises(RunLeasedError):
                rival.run("long", lambda run: "stolen", run_id=run.id, lease_wait_s=0)

        self.tide.run("long", long)
        beats = sum(each.endswith("/heartbeat") for each in self.tide.requests)
        self.assertTrue(3 <= beats <= 8, beats)

    def test_a_run_that_another_worker_holds_is_waited_for(self) -> None:
        begun = threading.Event()
        ids: List[str] = []

        def first(run: Any) -> str:
            ids.append(run.id)
            begun.set()
            time.sleep(LEASE_S / 2)
            return "first"

        outcome = self.in_thread("shared", first)
        begun.wait(10)
        self.assertEqual(self.client().run("shared", lambda run: "second", run_id=ids[0]), "first")
        self.assertEqual(outcome.value(), "first")

    def test_cancelling_is_noticed_at_the_next_step_and_at_the_end(self) -> None:
        def between(run: Any) -> None:
            self.tide.runs.cancel(run.id, reason="enough", actor="me")
            run.step("next", lambda: 1)

        def last(run: Any) -> str:
            self.tide.runs.cancel(run.id)
            return "done"

        for workflow in (between, last):
            with self.assertRaises(RunCancelled) as raised:
                self.tide.run("cancelled", workflow)
            self.assertEqual(raised.exception.code, "run_cancelled")
        run = self.detail(raised.exception.run_id)["run"]
        self.assertEqual(run["status"], "cancelled")
        with self.assertRaises(RunCancelled):
            self.tide.run("cancelled", last, run_id=run["id"])

    def test_cancelling_stops_what_looks_at_its_stop_and_what_waits(self) -> None:
        ids: List[str] = []
        seen: List[Any] = []

        def cancelled(run: Any) -> None:
            ids.append(run.id)
            try:
                run.step("hang", lambda step: seen.append(step.stop.wait(10)))
            except RunCancelled:
                with self.assertRaises(RunCancelled):
                    run.state.set(1)
                raise

        def waiting(run: Any) -> None:
            ids.append(run.id)
            run.gate("never")

        for workflow in (cancelled, waiting):
            ids.clear()
            outcome = self.in_thread("cancelled", workflow)
            until(lambda: ids)
            self.tide.runs.cancel(ids[0])
            with self.assertRaises(RunCancelled):
                outcome.value()
        self.assertEqual(seen, [True])

    def test_who_was_taken_over_stops_and_nothing_it_writes_counts(self) -> None:
        taken, begun = threading.Event(), threading.Event()
        ids: List[str] = []

        def slow(run: Any) -> Any:
            ids.append(run.id)
            self.tide.fault = lambda request, _: "before" if request.endswith("/heartbeat") else None

            def work() -> str:
                begun.set()
                taken.wait(10)
                return "slow"

            return run.step("work", work)

        def rival(run: Any) -> Any:
            def work() -> str:
                taken.set()
                time.sleep(0.2)
                return "rival"

            return run.step("work", work)

        outcome = self.in_thread("fenced", slow)
        begun.wait(10)
        time.sleep(LEASE_S + 0.1)
        self.assertEqual(self.client().run("fenced", rival, run_id=ids[0]), "rival")
        with self.assertRaises(LeaseLostError):
            outcome.value()
        run = self.detail(ids[0])["run"]
        self.assertEqual((run["status"], run["result"], run["attempt"]), ("completed", "rival", 2))

    def test_a_stop_ends_the_attempt_and_leaves_the_run_free(self) -> None:
        stop = Stop()
        ids: List[str] = []

        def stopped(run: Any) -> None:
            ids.append(run.id)
            run.step("done", lambda: 1)
            stop.stop(KeyError("ctrl-c"))
            run.step("never", lambda: 2)

        with self.assertRaises(KeyError):
            self.tide.run("stopped", stopped, stop=stop)
        run = self.detail(ids[0])["run"]
        self.assertEqual((run["status"], run["failureClass"]), ("failed", "aborted"))
        again = self.tide.run("stopped", lambda run: run.step("done", lambda: 2), run_id=ids[0], lease_wait_s=0)
        self.assertEqual(again, 1)

    def test_ctrl_c_in_the_middle_is_a_failed_attempt(self) -> None:
        ids: List[str] = []

        def interrupted(run: Any) -> None:
            ids.append(run.id)
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.tide.run("interrupted", interrupted)
        run = self.detail(ids[0])["run"]
        self.assertEqual((run["status"], run["failureClass"], run["error"]), ("failed", "aborted", "KeyboardInterrupt"))

    def test_every_answer_may_be_lost_once(self) -> None:
        seen = set()

        def fault(request: str, body: Dict[str, Any]) -> Any:
            key = f"{request} {sorted((k, str(v)) for k, v in body.items() if k not in ('leaseOwner', 'startedAt'))}"
            if request.startswith("GET") or key in seen:
                return None
            seen.add(key)
            return "after"

        self.tide.fault = fault
        ids: List[str] = []
        ran: List[str] = []

        def lossy(run: Any, input: Any) -> str:
            ids.append(run.id)

            def safe() -> None:
                ran.append("safe")
                run.usage(kind="llm", input_tokens=10, cost_usd=0.5)

            run.step("safe", safe)
            run.step("unsafe", lambda: ran.append("unsafe"), side_effects=["pay"])
            try:
                run.step("caught", lambda: 1 / 0)
            except TidebaseError:
                ran.append("caught")
            self.assertFalse(run.children.create("kid", "child")["created"])
            return "end"

        self.assertEqual(self.tide.run("lossy", lossy, input={"a": 1}), "end")
        self.assertEqual(ran, ["safe", "unsafe", "caught"])
        detail = self.detail(ids[0])
        self.assertEqual(detail["run"]["usageTotals"]["costUsd"], 0.5)
        self.assertEqual(
            [f"{each['name']} {each['status']}" for each in detail["steps"]],
            ["safe completed", "unsafe completed", "caught failed_retryable"],
        )
        self.assertEqual((len(detail["usage"]), len(detail["childRuns"])), (1, 1))
        self.assertEqual([each["seq"] for each in detail["events"]], list(range(1, len(detail["events"]) + 1)))
        queue = unique("lossy")
        enqueued = self.tide.enqueue("job", queue=queue, dedupe_key="one")
        self.assertFalse(enqueued.deduplicated)
        again = self.tide.enqueue("job", queue=queue, dedupe_key="one")
        self.assertEqual((again.run["id"], again.deduplicated), (enqueued.run["id"], True))

    def test_gates_are_decided(self) -> None:
        ids: List[str] = []

        def gated(run: Any) -> Any:
            ids.append(run.id)
            begun = run.gates.begin("other", "Really?")
            self.assertEqual(begun["action"], "wait")
            self.assertEqual(run.gates.get(begun["gate"]["id"])["gate"]["status"], "pending")
            return run.gate("publish", "Publish it?", data={"words": 3}, poll_s=0.2).payload

        outcome = self.in_thread("gated", gated)
        gates = until(lambda: ids and [g for g in self.detail(ids[0])["gates"] if g["name"] == "publish"])
        self.assertIn(gates[0]["id"], [each["id"] for each in self.tide.runs.inbox(limit=500)["gates"]])
        with self.assertRaises(TidebaseError) as raised:
            self.tide.runs.resolve_gate(ids[0], gates[0]["id"], "approved", token="wrong")
        self.assertEqual(raised.exception.code, "gate_token")
        self.tide.runs.resolve_gate(
            ids[0], gates[0]["id"], "approved", token=gates[0]["resolveToken"], actor="ada", payload={"ok": 1}
        )
        self.assertEqual(outcome.value(), {"ok": 1})

    def test_children_are_found_again_and_stop_with_their_parent(self) -> None:
        ran: List[int] = []

        @self.tide.workflow(unique("kid"))
        def kid(run: Any, input: int) -> Any:
            ran.append(input)
            return run.id

        def parent(run: Any) -> Any:
            first = run.child("one", kid, input=1)
            second = run.child("two", lambda run: run.step("x", lambda: 2))
            if run.attempt == 1:
                raise ValueError("again")
            with self.assertRaises(TidebaseError):
                run.child("three", "unknown")
            return [first, second]

        run_id = self.tide.runs.create("parent")["id"]
        with self.assertRaises(ValueError):
            self.tide.run("parent", parent, run_id=run_id)
        self.assertEqual(self.tide.run("parent", parent, run_id=run_id)[1], 2)
        self.assertEqual(ran, [1])
        self.assertEqual(len(self.detail(run_id)["childRuns"]), 2)

    def test_state_and_snapshots(self) -> None:
        def stateful(run: Any) -> None:
            self.assertIsNone(run.state.get())
            with self.assertRaises(TidebaseError) as raised:
                run.state.save("early")
            self.assertEqual(raised.exception.code, "state_not_found")
            self.assertEqual(run.state.set({"a": 1, "b": 2}, reason="start")["version"], 1)
            self.assertEqual(run.state.patch({"b": 3})["value"], {"a": 1, "b": 3})
            run.state.set("elsewhere", stream="notes")
            self.assertEqual((run.state.get(), run.state.get("notes")), ({"a": 1, "b": 3}, "elsewhere"))
            self.assertEqual(run.state.save("good", metadata={"by": "me"})["version"], 3)
            self.assertEqual(len(run.state.versions(stream="run")), 3)
            self.assertEqual([each["label"] for each in run.state.versions(labeled=True)], ["good"])
            run.snapshots.create("draft", {"text": "x"}, target={"type": "report", "id": "7"})
            self.assertEqual([each["label"] for each in run.snapshots.list()], ["draft", "good"])
            self.assertEqual(run.usage(input_tokens=2, output_tokens=3)["totalTokens"], 5)
            run.state.set(None)

        self.tide.run("stateful", stateful)

    def test_attach_holds_a_run_without_a_function(self) -> None:
        run_id = self.tide.runs.create("session", input={"q": 1})["id"]
        held = self.tide.runs.attach(run_id)
        self.assertEqual(held.input, {"q": 1})
        with self.assertRaises(RunLeasedError):
            self.tide.runs.attach(run_id)
        held.run.step("reply", lambda: "hi")
        held.fail(ValueError("later"))
        self.assertEqual(self.status(run_id), "failed")
        held = self.tide.runs.attach(run_id)
        self.assertEqual(held.run.step("reply", lambda: "again"), "hi")
        held.complete("end")
        self.assertEqual(self.detail(run_id)["run"]["result"], "end")
        with self.assertRaises(TidebaseError) as raised:
            self.tide.runs.attach(run_id)
        self.assertEqual(raised.exception.code, "run_completed")
        with self.assertRaises(TidebaseError) as raised:
            held.run.step("late", lambda: 1)
        self.assertEqual(raised.exception.code, "run_ended")

    def test_a_result_that_is_not_json_fails_the_run(self) -> None:
        run_id = new_run_id()
        self.tide.runs.create("odd", id=run_id)
        with self.assertRaises(TidebaseError) as raised:
            self.tide.run("odd", lambda run: object(), run_id=run_id)
        self.assertEqual(raised.exception.code, "not_json")
        self.assertEqual(self.status(run_id), "failed")

    def test_runs_are_listed_steered_and_forked(self) -> None:
        name = unique("listed")
        for n in range(3):
            self.tide.runs.create(name, metadata={"n": str(n)})
        page = self.tide.runs.list(workflow=name, limit=2)
        self.assertEqual([each["metadata"]["n"] for each in page["runs"]], ["2", "1"])
        rest = self.tide.runs.list(workflow=name, before=page["nextCursor"])
        self.assertEqual(len(rest["runs"]), 1)
        self.assertEqual(len(self.tide.runs.list(workflow=name, metadata={"n": "1"})["runs"]), 1)

        def two(run: Any, input: Any) -> Any:
            first = run.step("first", lambda: input)
            if input == "bad":
                raise ValueError("bad")
            return [first, run.step("second", lambda: input)]

        run_id = self.tide.runs.create(name, input="bad")["id"]
        with self.assertRaises(ValueError):
            self.tide.run(name, two, run_id=run_id)
        fork = self.tide.runs.fork(run_id, input="good")
        self.assertEqual(self.tide.run(name, two, run_id=fork["id"]), ["bad", "good"])
        self.assertEqual(self.tide.runs.retry(run_id)["status"], "pending")
        self.assertEqual(self.tide.runs.cancel(run_id)["status"], "cancelled")
        with self.assertRaises(TidebaseError) as raised:
            self.tide.runs.recover(self.tide.runs.create(name)["id"])
        self.assertEqual(raised.exception.code, "no_recovery_webhook")
        self.assertIsInstance(self.tide.runs.usage(group_by="workflow"), list)


class Outcome:
    """What a run in a thread comes to."""

    def __init__(self, tide: Watched, args: Any, options: Any) -> None:
        self._result: List[Any] = []
        self._error: List[BaseException] = []

        def work() -> None:
            try:
                self._result.append(tide.run(*args, **options))
            except BaseException as error:
                self._error.append(error)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def value(self) -> Any:
        self._thread.join(15)
        if self._error:
            raise self._error[0]
        return self._result[0]

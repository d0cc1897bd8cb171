"""Steps: what is recorded, what is repeated, and what a failure looks like."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any, Callable, List

from tidebase import FanoutError, InputMismatchError, StepError, StepTimeoutError, TidebaseError

from .helpers import ServerTest, until


class Steps(ServerTest):
    def resumed(self, workflow: Callable[..., Any]) -> List[Any]:
        """What a workflow gives in two executions of one run; the first one fails at its end."""
        run_id = self.tide.runs.create("resumed")["id"]
        results: List[Any] = []

        def once(run: Any) -> None:
            results.append(workflow(run))
            if run.attempt == 1:
                raise KeyError("the first time")

        with self.assertRaises(KeyError):
            self.tide.run("resumed", once, run_id=run_id)
        self.tide.run("resumed", once, run_id=run_id)
        return results

    def paths(self, method: str = "POST") -> List[str]:
        return [
            each.replace("/runs/:id", "") for each in self.tide.requests if each.startswith(method) and "/steps" in each
        ]

    def test_a_replay_safe_step_is_one_call_and_its_replay_none(self) -> None:
        first, second = self.resumed(lambda run: run.step("plan", lambda: {"at": time.time()}))
        self.assertEqual(first, second)
        self.assertEqual(self.paths(), ["POST /steps/record"])

    def test_a_step_that_may_not_be_repeated_is_begun_first(self) -> None:
        self.tide.run("pay", lambda run: run.step("pay", lambda: 1, side_effects=["pay"]))
        self.assertEqual(self.paths(), ["POST /steps/begin", "POST /steps/:id/complete"])

    def test_what_a_step_returns_is_what_a_resumed_run_gets(self) -> None:
        first, second = self.resumed(lambda run: run.step("odd", lambda: {1: (2, {"x": (3,)}), "n": 1.0}))
        self.assertEqual(first, second)
        self.assertEqual(first, {"1": [2, {"x": [3]}], "n": 1.0})
        self.assertIsInstance(first["n"], float)

    def test_a_step_that_takes_long_shows_as_running_meanwhile(self) -> None:
        def long(run: Any) -> None:
            def work() -> None:
                steps = until(lambda: self.detail(run.id)["steps"], 5)
                self.assertEqual((steps[0]["name"], steps[0]["status"]), ("slow", "running"))

            run.step("slow", work)

        self.tide.run("long", long)

    def test_each_numbers_the_calls_also_on_replay(self) -> None:
        def loop(run: Any) -> List[Any]:
            return [run.step("llm", lambda n=n: n * 10, each=True, input=n) for n in (1, 2, 3)]

        self.assertEqual(self.resumed(loop), [[10, 20, 30]] * 2)
        self.assertEqual(len(self.paths()), 3)

    def test_what_a_function_is_given(self) -> None:
        def given(run: Any) -> List[Any]:
            return [
                run.step("none", lambda: "none"),
                run.step("default", lambda x=5: x),
                run.step("step", lambda step: [step.name, step.attempt, step.idempotency_key], idempotency_key="k"),
                run.step("partial", functools.partial(lambda a, b: a + b, 1, 2)),
                run.step("type", dict),
            ]

        self.assertEqual(self.tide.run("given", given), ["none", 5, ["step", 1, "k"], 3, {}])

    def test_one_name_is_one_step(self) -> None:
        ran: List[int] = []

        def twice(run: Any) -> None:
            started = threading.Event()
            got: List[Any] = []

            def work() -> str:
                ran.append(1)
                started.set()
                time.sleep(0.1)
                return "value"

            def other() -> None:
                started.wait(5)
                got.append(run.step("same", work))

            thread = threading.Thread(target=other)
            thread.start()
            got.append(run.step("same", work))
            thread.join()
            got.append(run.step("same", work))
            self.assertEqual(got, ["value"] * 3)
            with self.assertRaises(InputMismatchError):
                run.step("same", work, input=2)

        self.tide.run("twice", twice)
        self.assertEqual(ran, [1])

    def test_another_input_on_replay(self) -> None:
        def changed(run: Any) -> Any:
            return run.step("work", lambda: 1, input={"attempt": run.attempt})

        with self.assertRaises(InputMismatchError) as raised:
            self.resumed(changed)
        self.assertEqual((raised.exception.step, raised.exception.code), ("work", "input_mismatch"))
        self.assertEqual(
            self.resumed(lambda run: run.step("own", lambda: 1, input=run.attempt, input_hash="same")), [1, 1]
        )

    def test_retries_with_a_pause_and_an_error_that_says_no(self) -> None:
        tries: List[float] = []

        def flaky(step: Any) -> str:
            tries.append(time.monotonic())
            if step.attempt < 3:
                raise ValueError("not yet")
            return "at last"

        class Final(Exception):
            retryable = False

        def final() -> None:
            tries.append(0)
            raise Final("no")

        def workflow(run: Any) -> None:
            self.assertEqual(run.step("flaky", flaky, retries=5, backoff_s=0.02), "at last")
            self.assertGreaterEqual(tries[2] - tries[1], 0.02)
            tries.clear()
            with self.assertRaises(StepError) as raised:
                run.step("final", final, retries=5, backoff_s=0.001)
            self.assertEqual((len(tries), raised.exception.attempts), (1, 1))
            self.assertIsInstance(raised.exception.__cause__, Final)
            with self.assertRaises(StepError) as raised:
                run.step("paid", final, retries=1, side_effects=["pay"])
            self.assertEqual(str(raised.exception), 'Step "paid" failed: Final: no')

        self.tide.run("retries", workflow)

    def test_a_step_that_takes_too_long_is_left_behind(self) -> None:
        stopped = threading.Event()

        def slow(step: Any) -> None:
            step.stop.wait(10)
            stopped.set()

        def workflow(run: Any) -> None:
            started = time.monotonic()
            with self.assertRaises(StepError) as raised:
                run.step("slow", slow, timeout_s=0.05)
            self.assertLess(time.monotonic() - started, 2)
            self.assertIsInstance(raised.exception.__cause__, StepTimeoutError)
            self.assertEqual(raised.exception.failure_class, "timeout")
            self.assertTrue(stopped.wait(5))

        self.tide.run("slow", workflow)

    def test_an_output_that_cannot_be_recorded_fails_the_step(self) -> None:
        def workflow(run: Any) -> None:
            for name, output, options in (
                ("object", object(), {}),
                ("nan", float("nan"), {"side_effects": ["x"]}),
                ("large", "x" * 5_000_000, {}),
            ):
                with self.assertRaises(StepError):
                    run.step(name, lambda output=output: output, **options)
            with self.assertRaises(TidebaseError) as raised:
                run.step("input", lambda: 1, input=object())
            self.assertEqual(raised.exception.code, "not_json")
            with self.assertRaises(TypeError):
                run.step("effects", lambda: 1, side_effects="email")
            run_id.append(run.id)

        run_id: List[str] = []
        self.tide.run("unfit", workflow)
        statuses = {each["name"]: each["status"] for each in self.detail(run_id[0])["steps"]}
        self.assertEqual(statuses, {"object": "failed_retryable", "nan": "manual_review", "large": "failed_retryable"})

    def test_fanout_is_bounded_in_order_and_repeats_only_what_failed(self) -> None:
        lock = threading.Lock()
        active: List[int] = [0, 0]
        ran: List[int] = []

        def work(item: int, step: Any) -> int:
            self.assertEqual(step.index, item - 1)
            with lock:
                ran.append(item)
                active[0] += 1
                active[1] = max(active)
            time.sleep(0.01)
            with lock:
                active[0] -= 1
            if item == 3 and len(ran) <= 6:
                raise ValueError("three")
            return item * 2

        run_id = self.tide.runs.create("fan")["id"]

        def fan(run: Any) -> Any:
            return run.fanout("item", [1, 2, 3, 4, 5, 6], work, concurrency=2)

        with self.assertRaises(FanoutError) as raised:
            self.tide.run("fan", fan, run_id=run_id)
        self.assertEqual([sorted(each) for each in raised.exception.results].count(["error"]), 1)
        self.assertEqual(self.tide.run("fan", fan, run_id=run_id), [2, 4, 6, 8, 10, 12])
        self.assertEqual((sorted(ran), active[1]), ([1, 2, 3, 3, 4, 5, 6], 2))

    def test_fanout_stops_on_error_and_nothing_to_do_is_nothing(self) -> None:
        def workflow(run: Any) -> None:
            self.assertEqual(run.fanout("empty", [], lambda item: item), [])
            with self.assertRaises(FanoutError) as raised:
                run.fanout("stop", [1, 2, 3], lambda item: 1 // 0, concurrency=1, stop_on_error=True)
            errors = [each["error"] for each in raised.exception.results]
            self.assertEqual([getattr(each, "code", "") for each in errors[1:]], ["fanout_stopped"] * 2)
            with self.assertRaises(ValueError):
                run.fanout("none", [1], lambda item: item, concurrency=0)

        self.tide.run("fanout", workflow)

    def test_many_steps_at_once(self) -> None:
        items = list(range(40))
        self.assertEqual(self.tide.run("many", lambda run: run.fanout("n", items, lambda n: n, concurrency=40)), items)

    def test_a_failed_step_is_recorded_with_its_traceback_and_causes(self) -> None:
        run_id = self.tide.runs.create("breaks")["id"]

        def reserve(password: str) -> None:
            try:
                raise KeyError("table")
            except KeyError as error:
                raise ValueError("no table") from error

        with self.assertRaises(StepError):
            self.tide.run(
                "breaks", lambda run: run.step("reserve", lambda: reserve("hunter2"), timeout_s=5), run_id=run_id
            )
        detail = self.detail(run_id)
        error = detail["steps"][0]["error"]
        message, traceback, *frames = error.split("\n")
        self.assertEqual((message, traceback), ("ValueError: no table", "Traceback (most recent call last):"))
        self.assertEqual([frame.rsplit(" ", 1)[1] for frame in frames[:2]], ["<lambda>", "reserve"])
        self.assertRegex(frames[1], r'^  File ".*test_steps\.py", line \d+, in reserve$')
        self.assertEqual(frames[2:], ["Caused by: KeyError: 'table'"])
        self.assertNotIn("hunter2", error)
        self.assertEqual(detail["run"]["error"], 'Step "reserve" failed: ValueError: no table')
        events = [each["payload"] for each in detail["events"] if each["type"] == "step.failed"]
        self.assertEqual([each["error"] for each in events], ["ValueError: no table"])

    def test_of_an_error_of_the_sdk_the_message_alone_is_recorded(self) -> None:
        run_id = self.tide.runs.create("late")["id"]
        with self.assertRaises(StepError):
            self.tide.run("late", lambda run: run.step("late", lambda: time.sleep(1), timeout_s=0.05), run_id=run_id)
        self.assertEqual(self.detail(run_id)["steps"][0]["error"], 'Step "late" did not end within 50 ms.')

    def of_steps(self, run_id: str) -> List[Any]:
        """The events of a run's steps: type, attempt, and the error of that or of the try before."""
        events = [each for each in self.detail(run_id)["events"] if each["type"].startswith("step.")]
        return [
            (each["type"], payload.get("attempt"), payload.get("lastError", payload.get("error")))
            for each in events
            for payload in [each["payload"]]
        ]

    def shown(self, run_id: str) -> None:
        until(lambda: [each["status"] for each in self.detail(run_id)["steps"]] == ["running"], 5)

    def test_a_step_that_is_known_to_run_and_fails_is_one_attempt(self) -> None:
        run_id = self.tide.runs.create("slow")["id"]

        def wait() -> None:
            self.shown(run_id)
            raise ValueError("no")

        with self.assertRaises(StepError):
            self.tide.run("slow", lambda run: run.step("wait", wait), run_id=run_id)
        self.assertEqual(self.of_steps(run_id), [("step.started", 1, None), ("step.failed", 1, "ValueError: no")])

    def test_each_try_is_told_with_what_the_one_before_failed_with(self) -> None:
        for options in ({}, {"side_effects": ["pay"]}):
            run_id = self.tide.runs.create("tries")["id"]

            def call(step: Any, run_id: str = run_id) -> str:
                if step.attempt == 1:
                    self.shown(run_id)
                if step.attempt < 3:
                    raise ValueError(str(step.attempt))
                return "fine"

            self.tide.run(
                "tries",
                lambda run: run.step("call", lambda step: call(step), retries=2, backoff_s=0.001, **options),
                run_id=run_id,
            )
            expected: List[Any] = [("step.started", 1, None), ("step.started", 2, "ValueError: 1")]
            expected += [("step.started", 3, "ValueError: 2"), ("step.completed", None, None)]
            self.assertEqual(self.of_steps(run_id), expected)
            self.assertEqual(self.detail(run_id)["steps"][0]["attempt"], 3)

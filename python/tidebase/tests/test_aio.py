"""The asyncio client: what it adds to the blocking one. That both do the same is test_scripted."""

from __future__ import annotations

import asyncio
import json
import time
import unittest
from typing import Any, List

from tidebase import RunCancelled, StepError, StepTimeoutError, Stop, TidebaseError, sign_webhook
from tidebase.aio import AsyncTidebase

from .helpers import LEASE_S, SECRET, unique


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.tide = AsyncTidebase(webhook_secret=SECRET)
        self.addCleanup(self.tide.close)

    async def status(self, run_id: str) -> str:
        return str((await self.tide.runs.get(run_id, include=["run"]))["run"]["status"])

    async def until(self, run_id: str, status: str) -> None:
        for _ in range(500):
            if await self.status(run_id) == status:
                return
            await asyncio.sleep(0.02)
        self.fail(f"{run_id} is never {status}")

    async def test_functions_may_be_async_or_plain_and_run_on_the_loop(self) -> None:
        loop = asyncio.get_running_loop()

        async def work(step: Any) -> Any:
            await asyncio.sleep(0.001)
            return [step.name, asyncio.get_running_loop() is loop]

        async def workflow(run: Any, input: Any) -> Any:
            return [await run.step("async", work), await run.step("plain", lambda: input)]

        self.assertEqual(await self.tide.run("mixed", workflow, input=1), [["async", True], 1])

    async def test_the_traceback_of_a_failed_step_has_the_frames_of_the_program(self) -> None:
        run_id = (await self.tide.runs.create("breaks"))["id"]

        async def inner() -> None:
            raise ValueError("no")

        async def work() -> None:
            await asyncio.wait_for(inner(), 5)

        async def workflow(run: Any) -> None:
            await run.step("work", work, timeout_s=5)

        with self.assertRaises(StepError):
            await self.tide.run("breaks", workflow, run_id=run_id)
        message, header, *frames = (await self.tide.runs.get(run_id))["steps"][0]["error"].split("\n")
        self.assertEqual((message, header), ("ValueError: no", "Traceback (most recent call last):"))
        self.assertEqual([frame.rsplit(" ", 1)[1] for frame in frames], ["work", "inner"])

    async def test_steps_side_by_side(self) -> None:
        async def workflow(run: Any) -> Any:
            started = time.monotonic()
            steps = [run.step(f"s{n}", lambda n=n: asyncio.sleep(0.3, n)) for n in range(30)]
            values = await asyncio.gather(*steps)
            self.assertLess(time.monotonic() - started, 5)
            return values

        self.assertEqual(await self.tide.run("gathered", workflow), list(range(30)))

    async def test_a_time_limit_cancels_the_function(self) -> None:
        cancelled: List[bool] = []

        async def slow() -> None:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        async def workflow(run: Any) -> None:
            with self.assertRaises(StepError) as raised:
                await run.step("slow", slow, timeout_s=0.05)
            self.assertIsInstance(raised.exception.__cause__, StepTimeoutError)

        await self.tide.run("slow", workflow)
        self.assertEqual(cancelled, [True])

    async def test_cancelling_the_run_cancels_its_function(self) -> None:
        cancelled: List[bool] = []
        run_id = (await self.tide.runs.create("cancelled"))["id"]

        async def workflow(run: Any) -> None:
            try:
                await run.step("hang", lambda: asyncio.sleep(10))
            finally:
                cancelled.append(True)

        task = asyncio.create_task(self.tide.run("cancelled", workflow, run_id=run_id))
        await self.until(run_id, "running")
        await self.tide.runs.cancel(run_id)
        with self.assertRaises(RunCancelled):
            await task
        self.assertEqual(cancelled, [True])

    async def test_cancelling_the_task_fails_the_attempt_at_once(self) -> None:
        run_id = (await self.tide.runs.create("task"))["id"]

        async def workflow(run: Any) -> None:
            await run.gate("never")

        task = asyncio.create_task(self.tide.run("task", workflow, run_id=run_id))
        await self.until(run_id, "running")
        await asyncio.sleep(0.1)
        started = time.monotonic()
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertLess(time.monotonic() - started, 2)
        run = (await self.tide.runs.get(run_id))["run"]
        self.assertEqual((run["status"], run["failureClass"]), ("failed", "aborted"))

    async def test_a_busy_loop_does_not_lose_its_run(self) -> None:
        asyncio.get_running_loop().slow_callback_duration = 5

        async def workflow(run: Any) -> int:
            time.sleep(LEASE_S * 1.5)
            await run.step("after", lambda: 1)
            return int(run.attempt)

        self.assertEqual(await self.tide.run("busy", workflow), 1)

    async def test_a_worker_parks_and_goes_on_and_stops(self) -> None:
        name = unique("aio")
        seen: List[int] = []

        @self.tide.workflow(name)
        async def workflow(run: Any, input: Any) -> Any:
            seen.append(await run.step("once", lambda: len(seen)))
            first, second = await asyncio.gather(run.gate("a"), run.gate("b"))
            return [first.payload, second.approved]

        stop = Stop()
        errors: List[BaseException] = []
        working = asyncio.create_task(
            self.tide.work(
                [name], stop=stop, wait_s=0.3, park_after_s=0.1, on_error=lambda error, run: errors.append(error)
            )
        )
        run_id = (await self.tide.enqueue(workflow, queue=name)).run["id"]
        for gate_name in ("a", "b"):
            await self.until(run_id, "waiting")
            gates = (await self.tide.runs.get(run_id))["gates"]
            gate = next(each for each in gates if each["name"] == gate_name)
            await self.tide.runs.resolve_gate(
                run_id, gate["id"], "approved", token=gate["resolveToken"], payload=gate_name
            )
        run = await self.tide.runs.wait(run_id, timeout_s=10)
        self.assertEqual(run["result"], ["a", True])
        self.assertEqual(set(seen), {0})
        stop.stop()
        await asyncio.wait_for(working, 5)
        self.assertEqual(errors, [])

    async def test_what_does_not_end_within_the_grace_is_cancelled_and_queued_again(self) -> None:
        name = unique("aio")
        begun = asyncio.Event()

        async def workflow(run: Any) -> None:
            begun.set()
            await asyncio.sleep(30)

        self.tide.workflow(name, workflow)
        stop = Stop()
        options: Any = {"stop": stop, "wait_s": 0.2, "grace_s": 0.05, "on_error": lambda error, run: None}
        working = asyncio.create_task(self.tide.work([name], **options))
        run_id = (await self.tide.enqueue(name, queue=name, max_attempts=2)).run["id"]
        await begun.wait()
        stop.stop()
        await asyncio.wait_for(working, 5)
        self.assertEqual(await self.status(run_id), "queued")

    async def test_a_webhook_is_executed_as_a_task(self) -> None:
        name = unique("hooked")

        @self.tide.workflow(name)
        async def workflow(run: Any, input: Any) -> Any:
            return await run.step("work", lambda: asyncio.sleep(0.01, input))

        run_id = (await self.tide.runs.create(name, input=5))["id"]
        body = json.dumps({"type": "run.resume", "runId": run_id, "workflowName": name}).encode()
        self.assertEqual(self.tide.webhook(body, sign_webhook(SECRET, body)).status, 202)
        self.assertEqual((await self.tide.runs.wait(run_id, timeout_s=10))["result"], 5)

    async def test_errors_and_attached_runs(self) -> None:
        with self.assertRaises(TidebaseError) as raised:
            await self.tide.run("unknown")
        self.assertEqual(raised.exception.code, "workflow_not_registered")
        run_id = (await self.tide.runs.create("session"))["id"]
        held = await self.tide.runs.attach(run_id)
        self.assertEqual(await held.run.step("reply", lambda: "hi"), "hi")
        await held.complete("end")
        self.assertEqual(await self.status(run_id), "completed")

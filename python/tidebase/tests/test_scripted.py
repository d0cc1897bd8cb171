"""One run, described in a file that every SDK executes: the server must see the same of each."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any, Dict

from tidebase import StepError
from tidebase.aio import AsyncTidebase

from .helpers import ServerTest, vectors

SCRIPT = vectors("scripted-run.json")
NAMES = {
    "input": "input",
    "retries": "retries",
    "sideEffects": "side_effects",
    "idempotencyKey": "idempotency_key",
    "replay": "replay",
    "checkpointInvariant": "checkpoint_invariant",
    "verifiedBy": "verified_by",
    "credentials": "credentials",
    "kind": "kind",
    "provider": "provider",
    "model": "model",
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "costUsd": "cost_usd",
    "data": "data",
    "onTimeout": "on_timeout",
    "reason": "reason",
    "label": "label",
    "importance": "importance",
    "metadata": "metadata",
    "target": "target",
}


def options(given: Dict[str, Any]) -> Dict[str, Any]:
    """Options as on the wire, as Python spells them."""
    seconds = {"backoffMs": "backoff_s", "timeoutMs": "timeout_s"}
    return {
        **{NAMES[key]: value for key, value in given.items() if key not in seconds},
        **{seconds[key]: value / 1000 for key, value in given.items() if key in seconds},
    }


class Work:
    """The function of a scripted step."""

    def __init__(self, operation: Dict[str, Any]) -> None:
        self.operation = operation
        self.tries = 0

    def __call__(self) -> Any:
        self.tries += 1
        if self.tries <= self.operation.get("failures", 0):
            raise Exception(self.operation["message"])
        return self.operation.get("output")


def contains(whole: Any, part: Any) -> bool:
    """Whether the fields of `part` are in `whole` with these values."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    return bool(whole == part)


class Scripted(ServerTest):
    def begin(self) -> str:
        run = self.tide.runs.create(SCRIPT["workflow"], input=SCRIPT["input"])
        for signal in SCRIPT["signals"]:
            self.tide.runs.signal(run["id"], signal["name"], signal["payload"])
        return str(run["id"])

    def check(self, run_id: str) -> None:
        detail = self.detail(run_id)
        self.assertTrue(contains(detail["run"], SCRIPT["run"]), detail["run"])
        self.assertEqual([each["name"] for each in detail["steps"]], [each["name"] for each in SCRIPT["steps"]])
        for step, expected in zip(detail["steps"], SCRIPT["steps"]):
            step["error"] = step["error"] and step["error"].split("\nTraceback ")[0]
            self.assertTrue(contains(step, expected), f"{step}\n{expected}")
        self.assertEqual([each["type"] for each in detail["events"]], [each["type"] for each in SCRIPT["events"]])
        for event, expected in zip(detail["events"], SCRIPT["events"]):
            self.assertTrue(contains(event["payload"], expected["payload"]), f"{event}\n{expected}")

    def test_blocking(self) -> None:
        self.tide.workflow("scripted-child", lambda run, input: run.step("work", lambda: input, input=input))
        run_id = self.begin()
        self.tide.run(SCRIPT["workflow"], self.workflow, run_id=run_id)
        self.check(run_id)

    def workflow(self, run: Any, input: Any) -> Any:
        self.assertEqual(input, SCRIPT["input"])
        for operation in SCRIPT["script"]:
            if operation["do"] == "return":
                return operation["value"]
            self.perform(run, operation)

    def perform(self, run: Any, operation: Dict[str, Any]) -> None:
        do, name, note = operation["do"], operation.get("name", ""), options(operation.get("note", {}))
        given = options(operation.get("options", {}))
        if do == "state.set":
            run.state.set(operation["value"], **note)
        elif do == "state.patch":
            run.state.patch(operation["value"], **note)
        elif do == "state.save":
            run.state.save(operation["label"], **note)
        elif do == "snapshot":
            run.snapshots.create(operation["label"], operation["state"], **note)
        elif do == "usage":
            run.usage(**options(operation["entry"]))
        elif do == "step" and operation.get("caught"):
            with self.assertRaises(StepError):
                run.step(name, Work(operation), **given)
        elif do == "step":
            self.assertEqual(run.step(name, Work(operation), **given), operation["output"])
        elif do == "each":
            for input in operation["inputs"]:
                run.step(name, lambda input=input: input, each=True, input=input)
        elif do == "fanout":
            items = operation["items"]
            self.assertEqual(run.fanout(name, items, lambda item: item, concurrency=operation["concurrency"]), items)
        elif do == "sleep":
            run.sleep(operation["ms"] / 1000)
        elif do == "signal":
            signal = run.wait_for_signal(name, **options({k: v for k, v in operation.items() if k == "timeoutMs"}))
            self.assertEqual(signal and signal.payload, operation["received"])
        elif do == "child":
            self.assertEqual(run.child(name, operation["workflow"], input=operation["input"]), operation["result"])
        elif do == "gate":
            self.assertEqual(run.gate(name, operation["prompt"], **given).decision, operation["decision"])
        else:
            self.fail(f"the script says {do}")

    def test_asyncio(self) -> None:
        run_id = self.begin()
        asyncio.run(self.asynchronously(run_id))
        self.check(run_id)

    async def asynchronously(self, run_id: str) -> None:
        tide = AsyncTidebase()

        @tide.workflow("scripted-child")
        async def child(run: Any, input: Any) -> Any:
            return await run.step("work", lambda: input, input=input)

        async def workflow(run: Any) -> Any:
            for operation in SCRIPT["script"]:
                if operation["do"] == "return":
                    return operation["value"]
                await self.perform_async(run, operation)

        await tide.run(SCRIPT["workflow"], workflow, run_id=run_id)
        tide.close()

    async def perform_async(self, run: Any, operation: Dict[str, Any]) -> None:
        do, name, note = operation["do"], operation.get("name", ""), options(operation.get("note", {}))
        given = options(operation.get("options", {}))
        if do == "state.set":
            await run.state.set(operation["value"], **note)
        elif do == "state.patch":
            await run.state.patch(operation["value"], **note)
        elif do == "state.save":
            await run.state.save(operation["label"], **note)
        elif do == "snapshot":
            await run.snapshots.create(operation["label"], operation["state"], **note)
        elif do == "usage":
            await run.usage(**options(operation["entry"]))
        elif do == "step":
            work = Work(operation)

            async def later() -> Any:
                await asyncio.sleep(0)
                return work()

            if operation.get("caught"):
                with self.assertRaises(StepError):
                    await run.step(name, later, **given)
            else:
                self.assertEqual(await run.step(name, later, **given), operation["output"])
        elif do == "each":
            for input in operation["inputs"]:
                await run.step(name, lambda input=input: asyncio.sleep(0, input), each=True, input=input)
        elif do == "fanout":
            items = operation["items"]
            concurrency = operation["concurrency"]
            self.assertEqual(
                await run.fanout(name, items, lambda item: asyncio.sleep(0, item), concurrency=concurrency), items
            )
        elif do == "sleep":
            await run.sleep(operation["ms"] / 1000)
        elif do == "signal":
            given = options({k: v for k, v in operation.items() if k == "timeoutMs"})
            signal = await run.wait_for_signal(name, **given)
            self.assertEqual(signal and signal.payload, operation["received"])
        elif do == "child":
            result = await run.child(name, operation["workflow"], input=operation["input"])
            self.assertEqual(result, operation["result"])
        elif do == "gate":
            self.assertEqual((await run.gate(name, operation["prompt"], **given)).decision, operation["decision"])
        else:
            self.fail(f"the script says {do}")


if __name__ == "__main__":
    unittest.main()

"""Token streams, the project's events, and what else is told of a project."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, Dict, List

from tidebase import Stop
from tidebase.aio import AsyncTidebase

from .helpers import ServerTest, unique, until


def text_of(chunks: List[Dict[str, Any]], name: str) -> str:
    """The text of a stream as its watchers have it: what begins at 0 starts over."""
    text = ""
    for chunk in chunks:
        if chunk["stream"] == name:
            text = text[: chunk["offset"]] + chunk["chunk"]
    return text


class Streams(ServerTest):
    def watch(self, run_id: str) -> List[Dict[str, Any]]:
        chunks: List[Dict[str, Any]] = []

        def follow() -> None:
            for _ in self.client().runs.subscribe(run_id, on_chunk=chunks.append):
                pass

        thread = threading.Thread(target=follow)
        thread.start()
        self.addCleanup(thread.join)
        return chunks

    def test_a_step_streams_while_it_runs_in_few_calls_and_its_watchers_see_it_before_the_output(self) -> None:
        run_id = self.tide.runs.create("writer")["id"]
        chunks = self.watch(run_id)
        words = [f"wörd{n} 🌊 " for n in range(100)]

        def write(step: Any) -> str:
            for word in words:
                step.stream(word)
                time.sleep(0.002)
            until(lambda: text_of(chunks, "write") == "".join(words))
            return "".join(words)

        self.assertEqual(self.tide.run("writer", lambda run: run.step("write", write), run_id=run_id), "".join(words))
        self.assertLess(len([each for each in self.tide.requests if each.endswith("/stream")]), 40)

    def test_a_second_attempt_starts_the_text_over_and_a_stream_outside_of_steps_is_closed_by_hand(self) -> None:
        run_id = self.tide.runs.create("writer")["id"]
        chunks = self.watch(run_id)

        def write(step: Any) -> None:
            text = "the first attempt" if step.attempt == 1 else "second"
            step.stream(text)
            until(lambda: text_of(chunks, "write") == text)
            if step.attempt == 1:
                raise ValueError("no")

        def workflow(run: Any) -> None:
            run.step("write", write, retries=1, backoff_s=0.01)
            notes = run.stream("notes")
            notes.write("one ")
            notes.write("two \ud83c")
            notes.close()
            notes.write("never")
            run.stream("unused").close()
            until(lambda: text_of(chunks, "notes") == "one two \ufffd")

        self.tide.run("writer", workflow, run_id=run_id)

    def test_what_cannot_be_written_does_not_disturb_the_work(self) -> None:
        self.tide.fault = lambda request, body: "before" if request.endswith("/stream") else None

        def write(step: Any) -> int:
            step.stream("x")
            time.sleep(0.2)
            return 1

        self.assertEqual(self.tide.run("writer", lambda run: run.step("write", write)), 1)
        self.assertIn("POST /runs/:id/stream", self.tide.requests)

    def test_lost_answers_write_nothing_twice(self) -> None:
        run_id = self.tide.runs.create("writer")["id"]
        chunks = self.watch(run_id)
        lost: List[str] = []

        def fault(request: str, body: Dict[str, Any]) -> Any:
            if not request.endswith("/stream") or len(lost) > 3:
                return None
            lost.append(request)
            return "after" if len(lost) % 2 else None

        self.tide.fault = fault

        def workflow(run: Any) -> None:
            answer = run.stream("answer")
            for word in ("a ", "b ", "c"):
                answer.write(word)
                time.sleep(0.1)
            answer.close()
            until(lambda: text_of(chunks, "answer") == "a b c")

        self.tide.run("writer", workflow, run_id=run_id)
        self.assertEqual(len(lost), 4)

    def test_asyncio(self) -> None:
        async def main() -> str:
            tide = AsyncTidebase()
            run_id = (await tide.runs.create("writer"))["id"]
            chunks: List[Dict[str, Any]] = []

            async def follow() -> None:
                async for _ in tide.runs.subscribe(run_id, on_chunk=chunks.append):
                    pass

            async def write(step: Any) -> int:
                step.stream("from the step")
                await asyncio.sleep(0.3)
                return 1

            async def workflow(run: Any) -> None:
                await run.step("write", write)
                notes = run.stream("notes")
                notes.write("notes")
                await notes.close()

            following = asyncio.create_task(follow())
            await tide.run("writer", workflow, run_id=run_id)
            await following
            tide.close()
            return f"{text_of(chunks, 'write')}, {text_of(chunks, 'notes')}"

        self.assertEqual(asyncio.run(main()), "from the step, notes")


class Project(ServerTest):
    def test_the_events_of_all_runs_from_where_one_was(self) -> None:
        seen: List[Any] = []
        stop = Stop()
        own: List[str] = []

        def follow() -> None:
            try:
                for event in self.client().events(after="latest", stop=stop):
                    seen.append(event)
            except KeyError:
                pass

        thread = threading.Thread(target=follow)
        thread.start()

        def heard() -> bool:
            # "latest" is when the server has it, so what is made soon may come before.
            own.append(self.tide.runs.create("fed")["id"])
            return any(event["runId"] in own for event in seen)

        until(heard)
        second = self.tide.runs.create("fed")["id"]
        until(lambda: [event for event in seen if event["runId"] == second])
        stop.stop(KeyError("enough"))
        thread.join()
        mine = [event for event in seen if event["runId"] in own]
        self.assertEqual(mine[0]["type"], "run.created")
        following = self.tide.events(after=mine[0]["id"])
        after = next(each for each in following if each["runId"] == second)
        self.assertEqual((after["type"], after["id"] > mine[0]["id"]), ("run.created", True))

    def test_asyncio(self) -> None:
        async def main() -> str:
            tide = AsyncTidebase()
            run = await tide.runs.create("fed")
            async for event in tide.events():
                if event["runId"] == run["id"]:
                    break
            tide.close()
            return str(event["type"])

        self.assertEqual(asyncio.run(main()), "run.created")

    def test_tenants_take_turns_and_have_so_many_at_a_time(self) -> None:
        queue = unique("tenants")
        config = self.tide.queues.configure(queue, per_key_concurrency=1)
        self.assertEqual(config["perKeyConcurrency"], 1)
        for key in ("a", "a", "b"):
            run = self.tide.enqueue("w", queue=queue, concurrency_key=key).run
            self.assertEqual(run["concurrencyKey"], key)
        body = {"queues": [queue], "limit": 3}
        claimed = self.tide._transport.call("POST", "/queues/claim", body=body)["runs"]
        self.assertEqual(sorted(run["concurrencyKey"] for run in claimed), ["a", "b"])
        self.assertIsNone(self.tide.queues.configure(queue, per_key_concurrency=None)["perKeyConcurrency"])

    def test_how_long_ended_runs_are_kept(self) -> None:
        before = self.tide.project.get()
        self.assertEqual((before["name"], before["retentionDays"]), ("default", None))
        self.assertEqual(self.tide.project.configure(retention_days=400)["effectiveRetentionDays"], 400)
        self.assertEqual(self.tide.project.configure()["retentionDays"], 400)
        self.assertIsNone(self.tide.project.configure(retention_days=None)["retentionDays"])

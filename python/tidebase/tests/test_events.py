"""Following a run's events."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, List

from tidebase import Stop, TidebaseError, new_run_id
from tidebase.aio import AsyncTidebase
from tidebase.core.events import messages

from .helpers import ServerTest


class Events(ServerTest):
    def test_backlog_then_live_until_the_end(self) -> None:
        run_id = self.tide.runs.create("followed")["id"]
        seen: List[Any] = []
        started = threading.Event()

        def follow() -> None:
            for event in self.client().runs.subscribe(run_id):
                seen.append((event["seq"], event["type"]))
                started.set()

        thread = threading.Thread(target=follow)
        thread.start()
        started.wait(10)
        self.tide.run("followed", lambda run: run.step("a", lambda: 1), run_id=run_id)
        thread.join(10)
        types = ["run.created", "run.started", "step.started", "step.completed", "run.completed"]
        self.assertEqual(seen, list(enumerate(types, 1)))
        self.assertEqual([each["seq"] for each in self.tide.runs.subscribe(run_id, after=3)], [4, 5])
        self.assertEqual(list(self.tide.runs.subscribe(run_id, after=5)), [])

    def test_a_stop_ends_it_and_a_run_that_is_not_there_is_an_error(self) -> None:
        run_id = self.tide.runs.create("followed")["id"]
        stop = Stop()
        with self.assertRaises(KeyError):
            for event in self.tide.runs.subscribe(run_id, stop=stop):
                self.assertEqual(event["type"], "run.created")
                threading.Timer(0.05, stop.stop, [KeyError("enough")]).start()
        with self.assertRaises(TidebaseError) as raised:
            list(self.tide.runs.subscribe(new_run_id()))
        self.assertEqual(raised.exception.code, "run_not_found")
        first = next(iter(self.tide.runs.subscribe(run_id)))
        self.assertEqual(first["seq"], 1)

    def test_asyncio(self) -> None:
        run_id = self.tide.runs.create("followed")["id"]

        async def main() -> List[str]:
            tide = AsyncTidebase()
            types = []
            async for event in tide.runs.subscribe(run_id):
                types.append(event["type"])
                if len(types) == 1:
                    running = asyncio.create_task(tide.run("followed", lambda run: 1, run_id=run_id))
            await running
            tide.close()
            return types

        self.assertEqual(asyncio.run(main()), ["run.created", "run.started", "run.completed"])

    def test_the_format(self) -> None:
        lines = [": comment", "id: 1", "data: a", "data:b", "", "event: chunk", "data: no", "", "data", "", "data: cut"]
        self.assertEqual(list(messages(lines)), [("message", "a\nb"), ("chunk", "no"), ("message", "")])

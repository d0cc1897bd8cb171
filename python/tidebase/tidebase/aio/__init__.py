"""The asyncio client: as ``tidebase.Tidebase``, with ``await``.

    from tidebase.aio import AsyncTidebase

    tide = AsyncTidebase()

    async def report(run, input):
        plan = await run.step("plan", lambda: make_plan(input["topic"]))
        return await run.step("write", lambda: write(plan), retries=3)

    await tide.run("report", report, input={"topic": "tides"})

Functions of steps and workflows may be coroutine functions or plain ones; both are called on the event loop, so what
blocks belongs into ``asyncio.to_thread``. Heartbeats come from a thread: a busy loop does not lose a run.

All files here but this one and ``runtime.py`` are generated from the blocking client by ``gen_aio.py``.
"""

from .attached import Attached
from .client import AsyncTidebase
from .run import AsyncRunContext

__all__ = ["AsyncRunContext", "AsyncTidebase", "Attached"]

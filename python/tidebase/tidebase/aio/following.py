"""Following runs: their events, and their end."""
# Generated from ../following.py by gen_aio.py.

from __future__ import annotations

import time
from typing import Any, Callable, Dict, AsyncIterator, Optional, cast

from ..core.events import ENDED
from ..core.events import follow as events
from ..core.execute import Engine
from ..errors import TidebaseError
from ..stop import Stop


class Following:
    """The part of ``tide.runs`` that follows runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def subscribe(
        self,
        run_id: str,
        *,
        after: int = 0,
        follow: bool = False,
        on_chunk: Optional[Callable[[Dict[str, Any]], None]] = None,
        stop: Optional[Stop] = None,
    ) -> AsyncIterator[Dict[str, Any]]:
        """Follows a run's events: the backlog, then live, also across restarts of the server. Ends with the run.

        Args:
            run_id: its id.
            after: only events with a higher ``seq``.
            follow: go on after the run has ended: a failed run may be resumed.
            on_chunk: called with what the run's steps stream while they run: ``stream``, ``offset`` (in characters) and
                ``chunk``. An offset of 0 starts a text over. A plain function.
            stop: ends it by raising the stop's reason.

        Returns:
            the events, one after the other, as they come.

        Raises:
            TidebaseError: ``run_not_found``.
        """
        return events(self._engine, run_id, after, follow, on_chunk, stop)

    async def wait(self, run_id: str, *, timeout_s: Optional[float] = None, poll_s: float = 0.5) -> Dict[str, Any]:
        """Waits until a run has ended, asking again and again.

        Args:
            run_id: its id.
            timeout_s: no limit unless given, in seconds.
            poll_s: longest pause between questions, in seconds; the first ones are shorter.

        Returns:
            the completed, failed or cancelled run.

        Raises:
            TidebaseError: ``wait_timeout``; ``run_not_found``.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        pause = min(0.02, poll_s)
        while True:
            run: Dict[str, Any] = (await _get(self._engine, run_id))
            if run["status"] in ENDED:
                return run
            if until is not None and time.monotonic() + pause > until:
                raise TidebaseError(
                    f"Run {run_id} did not end within {timeout_s} s.",
                    code="wait_timeout",
                    hint="Look at it with tide.runs.get; a pending run waits for a program to begin it, a queued one "
                    "for a worker.",
                    retryable=True,
                )
            (await self._engine.runtime.sleep(pause))
            pause = min(pause * 1.5, poll_s)


async def _get(engine: Engine, run_id: str) -> Dict[str, Any]:
    reply = await engine.call("GET", "/runs/{run_id}", run_id=run_id, query={"include": "run"})
    return cast(Dict[str, Any], reply["run"])

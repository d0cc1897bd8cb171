"""Queues and schedules, seen from outside."""
# Generated from ../queues.py by gen_aio.py.

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, cast

from ..core.execute import Engine
from ..core.jobs import UNCHANGED, Enqueued, enqueued
from ..core.wire import body
from ..ids import new_run_id


class Queues:
    """Operations on queues, ``tide.queues``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self) -> List[Dict[str, Any]]:
        """Lists every queue that has runs or a configuration, with its counts."""
        return cast("List[Dict[str, Any]]", (await self._engine.call("GET", "/queues"))["queues"])

    async def configure(
        self,
        queue: str,
        *,
        concurrency: Optional[int] = UNCHANGED,
        rate_per_minute: Optional[int] = UNCHANGED,
        per_key_concurrency: Optional[int] = UNCHANGED,
        invoke_url: Optional[str] = UNCHANGED,
    ) -> Dict[str, Any]:
        """Sets a queue's caps and push address. What is not given keeps its value, None clears it.

        Args:
            queue: its name.
            concurrency: runs at a time.
            rate_per_minute: starts.
            per_key_concurrency: runs of one ``concurrency_key`` at a time.
            invoke_url: runs are pushed there.

        Returns:
            the configuration.
        """
        given = {
            "concurrency": concurrency,
            "ratePerMinute": rate_per_minute,
            "perKeyConcurrency": per_key_concurrency,
            "invokeUrl": invoke_url,
        }
        config = {key: value for key, value in given.items() if value is not UNCHANGED}
        reply = await self._engine.call("PUT", "/queues/{queue}/config", queue=queue, body=config)
        return cast(Dict[str, Any], reply["config"])

    async def pause(self, queue: str) -> Dict[str, Any]:
        """Hands out no more runs of a queue. What runs already goes on; enqueueing does too."""
        reply = await self._engine.call("POST", "/queues/{queue}/pause", queue=queue, body={})
        return cast(Dict[str, Any], reply["config"])

    async def resume(self, queue: str) -> Dict[str, Any]:
        """Hands out runs of a paused queue again."""
        reply = await self._engine.call("POST", "/queues/{queue}/resume", queue=queue, body={})
        return cast(Dict[str, Any], reply["config"])

    async def enqueue_all(self, queue: str, jobs: Sequence[Mapping[str, Any]]) -> "List[Enqueued]":
        """Puts many runs into a queue, in calls of up to 1,000, each of them once also when an answer is lost.

        Args:
            queue: its name.
            jobs: what ``job(…)`` made, or dicts as on the wire: ``workflowName``, ``input``, ``dedupeKey``, …

        Returns:
            the runs in the order of the jobs.
        """
        every = [{**each, "id": each.get("id") or new_run_id()} for each in jobs]
        done: List[Enqueued] = []
        for start in range(0, len(every), 1_000):
            part = every[start : start + 1_000]
            path = "/queues/{queue}/enqueue/batch"
            reply = await self._engine.call("POST", path, queue=queue, body={"jobs": part})
            done += [enqueued(each, mine["id"]) for each, mine in zip(reply["jobs"], part)]
        return done


class Schedules:
    """Operations on schedules, ``tide.schedules``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def set(
        self,
        name: str,
        *,
        cron: str,
        workflow_name: str,
        timezone: Optional[str] = None,
        input: Any = None,
        queue: Optional[str] = None,
        max_attempts: Optional[int] = None,
        enabled: Optional[bool] = None,
        catch_up: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Creates or replaces a schedule.

        Args:
            name: its name.
            cron: five fields.
            workflow_name: what its runs execute.
            timezone: IANA name; UTC unless given.
            input: of its runs.
            queue: ``default`` unless given.
            max_attempts: of its runs.
            enabled: True unless given.
            catch_up: what becomes of fires that were missed: ``none``, ``last`` (unless given) or ``all``.

        Returns:
            the schedule, with ``nextRuns``.

        Raises:
            TidebaseError: ``invalid_cron``, ``invalid_timezone``.
        """
        schedule = body(
            cron=cron,
            workflowName=workflow_name,
            timezone=timezone,
            input=input,
            queue=queue,
            maxAttempts=max_attempts,
            enabled=enabled,
            catchUp=catch_up,
        )
        reply = await self._engine.call("PUT", "/schedules/{name}", name=name, body=schedule)
        return cast(Dict[str, Any], reply["schedule"])

    async def list(self) -> List[Dict[str, Any]]:
        """Lists all schedules by name."""
        return cast("List[Dict[str, Any]]", (await self._engine.call("GET", "/schedules"))["schedules"])

    async def trigger(self, name: str) -> Dict[str, Any]:
        """Enqueues a run of a schedule now, once also when the answer is lost.

        Raises:
            TidebaseError: ``schedule_not_found``.
        """
        reply = await self._engine.call("POST", "/schedules/{name}/trigger", name=name, body={"id": new_run_id()})
        return cast(Dict[str, Any], reply["run"])

    async def delete(self, name: str) -> None:
        """Deletes a schedule. Runs it has made stay.

        Raises:
            TidebaseError: ``schedule_not_found``.
        """
        (await self._engine.call("DELETE", "/schedules/{name}", name=name))

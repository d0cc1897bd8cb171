"""Runs, seen from outside: create, look, steer. Executing them is `tide.run`, `tide.work`, `tide.webhook` and, for
sessions that have no function to wrap, `attach`."""
# Generated from ../runs.py by gen_aio.py.

from __future__ import annotations

from datetime import datetime
from typing import Any, Dict, List, Mapping, Optional, Sequence, cast

from .attached import Attached
from ..core.execute import Begin, Engine
from ..core.lease import Lease
from ..core.wire import body, iso
from ..errors import TidebaseError
from .following import Following
from ..ids import new_run_id
from ..stop import Stop


class Runs(Following):
    """Operations on runs, ``tide.runs``."""

    async def create(
        self,
        workflow_name: str,
        *,
        input: Any = None,
        metadata: Optional[Mapping[str, Any]] = None,
        recovery_webhook: Optional[str] = None,
        channels: Optional[Sequence[Mapping[str, Any]]] = None,
        budget: Optional[Mapping[str, float]] = None,
        id: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Creates a run; it is ``pending`` until something begins it. Repeating the call with one ``id`` makes one run.

        Args:
            workflow_name: what it executes.
            input: any JSON; the workflow gets it.
            metadata: a JSON object to find the run by.
            recovery_webhook: called (signed) when the run fails or its worker is gone, so that something resumes it.
            channels: told (signed) of the run's events: ``{"type": "webhook", "url", "secret", "events"}``.
            budget: ``{"costUsd", "totalTokens"}``; the usage entry that crosses it cancels the run.
            id: ``new_run_id()`` unless given.

        Returns:
            the run.
        """
        new = body(
            id=id or new_run_id(),
            input=input,
            metadata=metadata,
            recoveryWebhook=recovery_webhook,
            channels=channels,
            budget=budget,
        )
        return await create_run(self._engine, workflow_name, new)

    async def list(
        self,
        *,
        status: Optional[str] = None,
        workflow: Optional[str] = None,
        queue: Optional[str] = None,
        search: Optional[str] = None,
        metadata: Optional[Mapping[str, str]] = None,
        before: Optional[str] = None,
        after: Optional[str] = None,
        limit: Optional[int] = None,
    ) -> Dict[str, Any]:
        """Lists runs, newest first, a page at a time.

        Args:
            status: ``pending``, ``queued``, ``running``, ``waiting``, ``completed``, ``failed`` or ``cancelled``.
            workflow, queue: names.
            search: part of the workflow's name, or the start of a run id.
            metadata: keys and the values they must have.
            before: ``nextCursor`` of the page before: older runs.
            after: a run id or cursor: newer runs.
            limit: 1 to 500; 100 unless given.

        Returns:
            ``runs``, and ``nextCursor`` for ``before`` (None on the last page).
        """
        query: Dict[str, Any] = {
            "status": status,
            "workflow": workflow,
            "queue": queue,
            "search": search,
            "before": before,
            "after": after,
            "limit": limit,
            **{f"metadata.{key}": value for key, value in (metadata or {}).items()},
        }
        return cast(Dict[str, Any], (await self._engine.call("GET", "/runs", query=query)))

    async def get(
        self,
        run_id: str,
        *,
        include: Optional[Sequence[str]] = None,
        events_after: Optional[int] = None,
        events_limit: Optional[int] = None,
        steps_after: Optional[int] = None,
        steps_limit: Optional[int] = None,
    ) -> Dict[str, Any]:
        """A run with its history: ``run``, ``steps``, ``state``, ``gates``, ``usage``, ``events`` and more.

        Args:
            run_id: its id.
            include: the parts wanted; all unless given.
            events_after: only events with a higher ``seq``.
            events_limit: how many events at most.
            steps_after: ``nextStepsAfter`` of the page before.
            steps_limit: how many steps at most; all unless given.

        Raises:
            TidebaseError: ``run_not_found``.
        """
        query = {
            "include": ",".join(include) if include is not None else None,
            "eventsAfter": events_after,
            "eventsLimit": events_limit,
            "stepsAfter": steps_after,
            "stepsLimit": steps_limit,
        }
        return cast(Dict[str, Any], (await self._engine.call("GET", "/runs/{run_id}", run_id=run_id, query=query)))

    async def cancel(self, run_id: str, *, reason: Optional[str] = None, actor: Optional[str] = None) -> Dict[str, Any]:
        """Cancels a run at once and for good. Repeating it changes nothing.

        Args:
            run_id: its id.
            reason, actor: why and who, for people.

        Returns:
            the run.

        Raises:
            TidebaseError: ``run_completed``.
        """
        return await _run(self._engine, "/runs/{run_id}/cancel", run_id, body(reason=reason, actor=actor))

    async def retry(self, run_id: str, *, actor: Optional[str] = None) -> Dict[str, Any]:
        """Puts a failed run back: queued again at once, or pending without a queue. Completed steps are not repeated.

        Args:
            run_id: its id.
            actor: who, for people.

        Returns:
            the run.

        Raises:
            TidebaseError: ``run_not_failed``, ``dedupe_conflict``.
        """
        return await _run(self._engine, "/runs/{run_id}/retry", run_id, body(actor=actor))

    async def fork(
        self,
        run_id: str,
        *,
        from_step: Optional[str] = None,
        state_version: Optional[int] = None,
        input: Any = None,
    ) -> Dict[str, Any]:
        """Makes a new run that starts with the completed steps and the state of another.

        Args:
            run_id: the other.
            from_step: name of the first step that runs again; none unless given.
            state_version: the state it starts with; the current one unless given.
            input: the other's unless given.

        Returns:
            the new run.

        Raises:
            TidebaseError: ``step_not_found``, ``state_not_found``.
        """
        fork = body(id=new_run_id(), fromStep=from_step, stateVersion=state_version, input=input)
        return await _run(self._engine, "/runs/{run_id}/fork", run_id, fork)

    async def recover(self, run_id: str, *, reason: Optional[str] = None) -> Dict[str, Any]:
        """Asks the run's recovery webhook to resume it.

        Args:
            run_id: its id.
            reason: why, for people.

        Returns:
            the recovery attempt.

        Raises:
            TidebaseError: ``no_recovery_webhook``.
        """
        asked = self._engine.call("POST", "/runs/{run_id}/recover", run_id=run_id, body=body(reason=reason))
        return cast(Dict[str, Any], (await asked)["recoveryAttempt"])

    async def inbox(self, *, after: Optional[str] = None, limit: Optional[int] = None) -> Dict[str, Any]:
        """The gates of all runs that wait for a decision, oldest first, a page at a time.

        Args:
            after: ``nextCursor`` of the page before.
            limit: 100 unless given.

        Returns:
            ``gates``, and ``nextCursor``.
        """
        query = {"after": after, "limit": limit}
        return cast(Dict[str, Any], (await self._engine.call("GET", "/gates", query=query)))

    async def resolve_gate(
        self,
        run_id: str,
        gate_id: str,
        decision: str,
        *,
        token: Optional[str] = None,
        actor: Optional[str] = None,
        payload: Any = None,
    ) -> Dict[str, Any]:
        """Decides a gate, exactly once.

        Args:
            run_id, gate_id: which.
            decision: ``approved``, ``rejected`` or ``canceled``.
            token: the gate's; may be left out with an admin key.
            actor: who, for people.
            payload: any JSON; the workflow gets it.

        Returns:
            the gate.

        Raises:
            TidebaseError: ``gate_resolved``, ``gate_token``.
        """
        given = body(decision=decision, token=token, actor=actor, payload=payload)
        path = "/runs/{run_id}/gates/{gate_id}/resolve"
        reply = await self._engine.call("POST", path, run_id=run_id, gate_id=gate_id, body=given)
        return cast(Dict[str, Any], reply["gate"])

    async def signal(
        self, run_id: str, name: str, payload: Any = None, *, idempotency_key: Optional[str] = None
    ) -> Dict[str, Any]:
        """Sends a signal to a run, once also when the acknowledgement is lost. It is kept until the run waits for it.

        Args:
            run_id: its id.
            name: what the run waits for with ``run.wait_for_signal(name)``.
            payload: any JSON.
            idempotency_key: a second call with the same key sends nothing.

        Returns:
            the signal.

        Raises:
            TidebaseError: ``run_completed``.
            RunCancelled: when the run is cancelled.
        """
        sent = body(name=name, payload=payload, idempotencyKey=idempotency_key or new_run_id())
        reply = await self._engine.call("POST", "/runs/{run_id}/signals", run_id=run_id, body=sent)
        return cast(Dict[str, Any], reply["signal"])

    async def resolve_step(
        self, run_id: str, step_id: str, decision: str, *, output: Any = None, actor: Optional[str] = None
    ) -> Dict[str, Any]:
        """Decides about a step whose worker died in the middle of it, exactly once; see ``ManualReviewError``.

        Args:
            run_id, step_id: which.
            decision: ``retry``, ``complete`` with its ``output``, or ``fail``.
            output: any JSON.
            actor: who, for people.

        Returns:
            the step.

        Raises:
            TidebaseError: ``step_not_in_review``.
        """
        given = body(decision=decision, actor=actor)
        if decision == "complete":
            given["output"] = output
        path = "/runs/{run_id}/steps/{step_id}/resolve"
        reply = await self._engine.call("POST", path, run_id=run_id, step_id=step_id, body=given)
        return cast(Dict[str, Any], reply["step"])

    async def usage(
        self,
        *,
        group_by: Optional[str] = None,
        start: Optional[datetime] = None,
        end: Optional[datetime] = None,
    ) -> "List[Dict[str, Any]]":
        """Sums of the project's usage.

        Args:
            group_by: ``workflow``, ``model``, ``provider`` or ``day`` (unless given).
            start, end: from when, and until when (exclusive).
        """
        query = {"groupBy": group_by, "from": iso(start), "to": iso(end)}
        return cast("List[Dict[str, Any]]", (await self._engine.call("GET", "/usage", query=query))["sums"])

    async def attach(
        self,
        run_id: str,
        *,
        lease_owner: Optional[str] = None,
        lease_wait_s: float = 0.0,
        stop: Optional[Stop] = None,
    ) -> Attached:
        """Begins a run without a function around the work: for sessions that outlive a call.

        Heartbeats go on until ``complete``, ``fail`` or ``detach``.

        Args:
            run_id: its id.
            lease_owner: who executes it; a new name unless given.
            lease_wait_s: how long to wait while another worker holds the run, in seconds.
            stop: stops the execution.

        Returns:
            the run context, the input, and the three ways to end.

        Raises:
            RunLeasedError, RunCancelled: when it cannot be had.
            TidebaseError: ``run_completed``.
        """
        options = Begin(lease_owner=lease_owner, lease_wait_s=lease_wait_s, stop=stop)
        held = await self._engine.begin(run_id, options)
        if held.owner is None:
            raise TidebaseError(
                f"Run {run_id} is already completed.",
                code="run_completed",
                hint="Its result is in tide.runs.get(run_id)['run']['result'].",
                status=409,
            )
        lease = Lease(self._engine.runtime, self._engine.transport, held.run, held.owner, stop)
        return Attached(self._engine, held, lease)


async def create_run(engine: Engine, workflow_name: str, new: Dict[str, Any]) -> Dict[str, Any]:
    """Creates a run."""
    reply = await engine.call("POST", "/runs/{workflow_name}", workflow_name=workflow_name, body=new)
    return cast(Dict[str, Any], reply["run"])


async def _run(engine: Engine, path: str, run_id: str, given: Dict[str, Any]) -> Dict[str, Any]:
    reply = await engine.call("POST", path, run_id=run_id, body=given)
    return cast(Dict[str, Any], reply["run"])

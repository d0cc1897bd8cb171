"""Executions: from a begun run to its recorded end. `run`, `work`, `webhook`, `child` and `attach` all pass here.

    begin ─▶ completed before: its result
      └────▶ held: workflow function, heartbeats ─▶ returned  ─▶ complete
                                                 ├▶ raised    ─▶ fail
                                                 ├▶ told to stop ─▶ fail (`aborted`), so that the lease is free at once
                                                 └▶ lost, cancelled, parked ─▶ nothing is written
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Generic, List, Mapping, Optional, TypeVar, Union

from ..errors import (
    LeaseLostError,
    RunCancelled,
    RunLeasedError,
    TidebaseError,
    error_text,
    failure_class_of,
)
from ..ids import new_owner
from ..runtime import Runtime, takes
from ..stop import Stop
from ..transport import Transport, backoff
from .lease import Lease
from .parking import Parking
from .wire import body

F = TypeVar("F", bound=Callable[..., Any])
WorkflowFn = Callable[..., Any]


class Workflow(Generic[F]):
    """A registered workflow: its name and its function. Calling it calls the function, without a server."""

    def __init__(self, name: str, fn: F) -> None:
        self.name = name
        self.fn = fn
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    @property
    def __call__(self) -> F:
        return self.fn

    def __repr__(self) -> str:
        return f"Workflow({self.name!r})"


AnyWorkflow = Union[str, Workflow[Any], WorkflowFn]


@dataclass
class Begin:
    """How a run is begun.

    Attributes:
        lease_owner: who executes it. A worker that comes back under its old name need not wait for its old lease.
        lease_wait_s: how long to wait for another worker's lease to end, in seconds; 0 raises at once.
        stop: stops the execution.
        park_after_s: after how many seconds in which everything waits the run is given up; never unless given.
        leave: a workflow function that ignores its stop is left behind, not waited for.
    """

    lease_owner: Optional[str] = None
    lease_wait_s: float = 0.0
    stop: Optional[Stop] = None
    park_after_s: Optional[float] = None
    leave: bool = False


@dataclass
class Held:
    """A run with the right to execute it; without an owner it is completed already."""

    run: Dict[str, Any]
    owner: Optional[str]
    checkpoints: List[Dict[str, Any]]


class Engine:
    """What executions need of their client.

    Args:
        context: makes the run context that workflow functions get.
    """

    def __init__(
        self,
        runtime: Runtime,
        transport: Transport,
        workflows: Mapping[str, WorkflowFn],
        context: Callable[["Engine", Lease, Held, Parking], Any],
    ) -> None:
        self.runtime = runtime
        self.transport = transport
        self.workflows = workflows
        self.context = context

    async def call(self, method: str, path: str, **request: Any) -> Any:
        return await self.runtime.call(self.transport, method, path, **request)

    def workflow_fn(self, name: str) -> WorkflowFn:
        """The function of a workflow.

        Raises:
            TidebaseError: ``workflow_not_registered``.
        """
        fn = self.workflows.get(name)
        if fn:
            return fn
        raise TidebaseError(
            f'No workflow "{name}" is registered here.',
            code="workflow_not_registered",
            hint=f"Register it with @tide.workflow('{name}') before you use it. "
            f"Registered: {', '.join(self.workflows) or 'none'}.",
            failure_class="workflow_not_registered",
        )

    async def begin(self, run_id: str, options: Begin) -> Held:
        """Begins a run.

        Raises:
            RunLeasedError: while another worker holds it.
            RunCancelled: when it is cancelled.
        """
        owner = options.lease_owner or new_owner("sdk")
        if not re.fullmatch(r"[\x20-\x7e]{1,300}", owner):
            raise TidebaseError(
                f"{owner!r} cannot name a lease.",
                code="invalid_lease_owner",
                hint="Use 1 to 300 printable ASCII characters.",
            )
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                reply = await self.call(
                    "POST",
                    "/runs/{run_id}/begin",
                    run_id=run_id,
                    query={"include": "checkpoints"},
                    headers={"x-tidebase-worker": owner},
                    stop=options.stop,
                    # A long history is a long answer.
                    timeout_s=120,
                )
                if reply["run"]["status"] == "completed":
                    return Held(reply["run"], None, [])
                return Held(reply["run"], reply.get("leaseOwner") or owner, reply.get("checkpoints") or [])
            except RunLeasedError:
                left = started + options.lease_wait_s - time.monotonic()
                if left <= 0:
                    raise
            await self.runtime.sleep(min(backoff(attempt, 0.1, 1.0), left), options.stop)
            attempt += 1

    async def resume(self, run_id: str, fn: WorkflowFn, options: Begin) -> Any:
        """Begins a run and executes it; a completed one gives its recorded result.

        Raises:
            what the workflow raises, and as `begin`.
        """
        held = await self.begin(run_id, options)
        return held.run["result"] if held.owner is None else await self.execute(held, fn, options)

    async def execute(self, held: Held, fn: WorkflowFn, options: Begin) -> Any:
        """Executes a held run to its end and records that end.

        Raises:
            what the workflow raises; RunCancelled or LeaseLostError when the run is not ours any more; RunParkedError.
        """
        lease = Lease(self.runtime, self.transport, held.run, held.owner or "", options.stop)
        try:
            context = self.context(self, lease, held, Parking(lease, options.park_after_s))
            args = [context, held.run.get("input")][: max(1, min(2, takes(fn, 2)))]
            result = await self.runtime.invoke(fn, args, lease.stop, None, options.leave)
            await self.complete(lease, held.run, result)
            return result
        except BaseException as error:
            if lease.lost and lease.stop.reason is not None:
                raise lease.stop.reason
            await self.fail(lease, error)
            raise
        finally:
            lease.close()

    async def complete(self, lease: Lease, run: Dict[str, Any], result: Any) -> None:
        """Records the result.

        Raises:
            RunCancelled, LeaseLostError: or why it cannot be recorded.
        """
        try:
            reply = await lease.call("POST", "/complete", body={"result": result, "leaseOwner": lease.owner})
            if reply["run"]["status"] == "cancelled":
                lease.lose(RunCancelled(lease.run_id))
            lease.check()
        except LeaseLostError:
            # A heartbeat that was under way finds the lease given back and stops everything, this call too, before its
            # answer is read. The attempt tells whether the completion was ours.
            now = await self.call("GET", "/runs/{run_id}", run_id=lease.run_id, query={"include": "run"})
            if now["run"]["status"] != "completed" or now["run"]["attempt"] != run["attempt"]:
                raise

    async def fail(self, lease: Lease, error: BaseException) -> None:
        """Records the failure, if that can be done; the error itself is the caller's to raise."""
        aborted = lease.stop.stopped or not isinstance(error, Exception)
        hurry = aborted or getattr(error, "code", None) == "unreachable"
        try:
            await self.call(
                "POST",
                "/runs/{run_id}/fail",
                run_id=lease.run_id,
                body=body(
                    error=error_text(error),
                    failureClass=failure_class_of(error) or ("aborted" if aborted else None),
                    leaseOwner=lease.owner,
                ),
                # When the server is away its lease ends by itself; who stops wants to stop.
                **({"retry_for_s": 3.0, "timeout_s": 3.0} if hurry else {}),
            )
        except Exception:
            # Taken over, cancelled, or out of reach: then the reconciler, or who took over, has the last word.
            pass

    async def child(self, lease: Lease, create: Callable[[str], Any], name: str, workflow: AnyWorkflow) -> Any:
        """Creates a child and executes it here; see `RunContext.child`."""
        # Before anything is written: a name that nobody registered is a mistake, not a child.
        if isinstance(workflow, str):
            workflow_name, fn = workflow, self.workflow_fn(workflow)
        elif isinstance(workflow, Workflow):
            workflow_name, fn = workflow.name, workflow.fn
        else:
            given = getattr(workflow, "__name__", "")
            workflow_name, fn = (name if given in ("", "<lambda>") else given), workflow
        created = await create(workflow_name)
        # A crashed parent's child stays leased for as long as the parent did; add a little for the server's clock.
        return await self.resume(created["run"]["id"], fn, Begin(lease_wait_s=75.0, stop=lease.stop))

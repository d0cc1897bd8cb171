"""The client: one object a program makes at its start. It holds the address, the key and the registered workflows."""
# Generated from ../client.py by gen_aio.py.

from __future__ import annotations

import os
from typing import Any, Callable, Dict, AsyncIterator, Mapping, Optional, Sequence, TypeVar, Union, overload

from ..core.events import feed
from ..core.execute import Begin, Engine, Workflow, WorkflowFn
from ..core.jobs import Enqueued, enqueued, job
from ..core.parking import PARK_AFTER_S
from ..core.webhook import OnWebhookError, WebhookReply, accept
from ..core.wire import Time, body
from ..core.worker import OnError, Work, Worker
from ..errors import TidebaseError
from ..ids import new_run_id
from .project import Project
from .queues import Queues, Schedules
from .run import AsyncRunContext
from .runs import Runs, create_run
from .runtime import Asyncio, until_told
from ..stop import Stop
from ..transport import Transport

F = TypeVar("F", bound=Callable[..., Any])


class AsyncTidebase:
    """A client of one Tidebase server, for asyncio.

    Attributes:
        runs: create, list, read, cancel, recover, fork, signal and attach to runs.
        queues: list and configure queues.
        schedules: set, list and delete schedules.
        project: how long the project keeps its ended runs.
        url: address of the server.
    """

    def __init__(
        self,
        url: Optional[str] = None,
        *,
        api_key: Optional[str] = None,
        webhook_secret: Optional[str] = None,
        retry_for_s: float = 120.0,
        timeout_s: float = 15.0,
    ) -> None:
        """Makes a client; no call is made yet.

        Args:
            url: of the server; TIDEBASE_URL, or http://127.0.0.1:7373, unless given.
            api_key: TIDEBASE_API_KEY unless given.
            webhook_secret: TIDEBASE_WEBHOOK_SECRET unless given.
            retry_for_s: how long a call is repeated while the server is away, in seconds. A server that never answered
                this client is given up after 3.
            timeout_s: how long one try of a call may take, in seconds.

        Raises:
            TidebaseError: ``invalid_url``, ``invalid_api_key``.
        """
        env = os.environ.get
        self._transport = Transport(
            url or env("TIDEBASE_URL") or "http://127.0.0.1:7373",
            api_key or env("TIDEBASE_API_KEY"),
            retry_for_s,
            timeout_s,
        )
        self._webhook_secret = webhook_secret or env("TIDEBASE_WEBHOOK_SECRET")
        self._workflows: Dict[str, WorkflowFn] = {}
        self._engine = Engine(Asyncio(), self._transport, self._workflows, AsyncRunContext)
        self.url = self._transport.url
        self.runs = Runs(self._engine)
        self.queues = Queues(self._engine)
        self.schedules = Schedules(self._engine)
        self.project = Project(self._engine)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def close(self) -> None:
        """Closes idle connections. Nothing has to be closed at the end of a program."""
        self._transport.close()

    def events(self, *, after: Union[int, str] = 0, stop: Optional[Stop] = None) -> AsyncIterator[Dict[str, Any]]:
        """Follows everything that happens in the project: the backlog, then live, also across restarts of the server.

        Args:
            after: only events with a higher ``id``; ``"latest"``: only what happens from now on.
            stop: ends it by raising the stop's reason.

        Returns:
            the events, one after the other, as they come. It does not end by itself.
        """
        return feed(self._engine, after, stop)

    async def run(
        self,
        name: Union[str, Workflow[Any]],
        fn: Optional[Callable[..., Any]] = None,
        *,
        run_id: Optional[str] = None,
        input: Any = None,
        metadata: Optional[Mapping[str, Any]] = None,
        recovery_webhook: Optional[str] = None,
        channels: Optional[Sequence[Mapping[str, Any]]] = None,
        budget: Optional[Mapping[str, float]] = None,
        lease_owner: Optional[str] = None,
        lease_wait_s: float = 75.0,
        stop: Optional[Stop] = None,
    ) -> Any:
        """Executes a run to its end.

        Without ``run_id`` a new one is created; with it that one is resumed: completed steps are not repeated, and a
        completed run gives its recorded result at once.

        Args:
            name: the workflow's name, or what ``tide.workflow`` returned.
            fn: the workflow: ``fn(run, input)`` or ``fn(run)``; the registered one unless given.
            run_id: resume this run rather than create one; input, metadata and the like are then those it has.
            input: any JSON; the workflow gets it. ``{}`` unless given.
            metadata: a JSON object to find the run by.
            recovery_webhook: called (signed) when the run fails or its worker is gone.
            channels: webhooks told (signed) of the run's events.
            budget: ``{"costUsd", "totalTokens"}``; the usage entry that crosses it cancels the run.
            lease_owner: who executes it. A worker that comes back under its old name need not wait for its old lease.
            lease_wait_s: how long to wait while another worker holds the run, in seconds; the default is enough for the
                lease of a crashed one to end. 0 raises RunLeasedError at once.
            stop: stops the execution: the attempt fails with class ``aborted``, and the run may be resumed by its id.

        Returns:
            what the workflow returned, or its recording.

        Raises:
            what the workflow raises (StepError for a failed step).
            RunCancelled, LeaseLostError, RunLeasedError: when the run is not ours, or not any more.
        """
        workflow_name = name if isinstance(name, str) else name.name
        work = fn or (self._engine.workflow_fn(name) if isinstance(name, str) else name.fn)
        if run_id is None:
            new = body(
                id=new_run_id(),
                input=input,
                metadata=metadata,
                recoveryWebhook=recovery_webhook,
                channels=channels,
                budget=budget,
            )
            run_id = str((await create_run(self._engine, workflow_name, new))["id"])
        else:
            (await _check_name(self._engine, run_id, workflow_name))
        options = Begin(lease_owner=lease_owner, lease_wait_s=lease_wait_s, stop=stop)
        return await self._engine.resume(run_id, work, options)

    @overload
    def workflow(self, name: str) -> Callable[[F], Workflow[F]]: ...

    @overload
    def workflow(self, name: str, fn: F) -> Workflow[F]: ...

    def workflow(self, name: str, fn: Optional[F] = None) -> Union[Workflow[F], Callable[[F], Workflow[F]]]:
        """Registers a workflow, so that ``work``, ``webhook``, ``run`` and ``run.child`` can execute it by name.

        Args:
            name: its name; registering it again replaces it.
            fn: gets the run and its input; left out when this is used as a decorator.

        Returns:
            the workflow, for ``run``, ``enqueue`` and ``run.child``; or the decorator.
        """

        def register(given: F) -> Workflow[F]:
            self._workflows[name] = given
            return Workflow(name, given)

        return register if fn is None else register(fn)

    async def enqueue(
        self,
        workflow: Union[str, Workflow[Any]],
        *,
        queue: str = "default",
        input: Any = None,
        id: Optional[str] = None,
        dedupe_key: Optional[str] = None,
        concurrency_key: Optional[str] = None,
        delay_s: Optional[float] = None,
        run_at: Optional[Time] = None,
        max_attempts: Optional[int] = None,
        priority: Optional[int] = None,
        deadline_s: Optional[float] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        recovery_webhook: Optional[str] = None,
        channels: Optional[Sequence[Mapping[str, Any]]] = None,
        budget: Optional[Mapping[str, float]] = None,
    ) -> Enqueued:
        """Puts a run into a queue, for a worker to execute.

        Args:
            workflow: its name, or what ``tide.workflow`` returned.
            queue: the queue's name.
            input: any JSON; the workflow gets it.
            id: ``new_run_id()`` unless given. Repeating the call with one id makes one run.
            dedupe_key: at most one active run of the queue has a given key; the call then answers with that run.
            concurrency_key: a tenant: keys of a queue take turns, and its ``per_key_concurrency`` caps each.
            delay_s: seconds from now until it may start.
            run_at: when it may start: a datetime, or ISO 8601.
            max_attempts: how often it is executed in all when it fails; 1 unless given.
            priority: higher goes first; 0 unless given.
            deadline_s: seconds from now until it is cancelled.
            metadata, recovery_webhook, channels, budget: as for ``tide.runs.create``.

        Returns:
            the run; ``deduplicated`` when an active run already has the dedupe key.
        """
        own_id = id or new_run_id()
        new = job(
            workflow if isinstance(workflow, str) else workflow.name,
            input=input,
            id=own_id,
            dedupe_key=dedupe_key,
            concurrency_key=concurrency_key,
            delay_s=delay_s,
            run_at=run_at,
            max_attempts=max_attempts,
            priority=priority,
            deadline_s=deadline_s,
            metadata=metadata,
            recovery_webhook=recovery_webhook,
            channels=channels,
            budget=budget,
        )
        return enqueued((await self._engine.call("POST", "/queues/{queue}/enqueue", queue=queue, body=new)), own_id)

    async def work(
        self,
        queues: Sequence[str] = ("default",),
        *,
        workflows: Sequence[Workflow[Any]] = (),
        concurrency: int = 10,
        stop: Optional[Stop] = None,
        grace_s: float = 25.0,
        lease_owner: Optional[str] = None,
        wait_s: float = 5.0,
        poll_s: float = 1.0,
        park_after_s: float = PARK_AFTER_S,
        on_error: Optional[OnError] = None,
    ) -> None:
        """Works: claims queued runs and executes their registered workflows until it is stopped.

        Outages and restarts of the server are waited out. When stopped it claims no more, lets what runs end within
        ``grace_s``, then stops the rest (a run with attempts left is queued again).

        Args:
            queues: to serve.
            workflows: registered before the work begins, beside those that are registered already.
            concurrency: how many runs it executes at a time.
            stop: stops the worker. Unless given, and in the main thread, SIGTERM and Ctrl-C do (a second one at once).
            grace_s: after the stop, how long running work may take to end, in seconds.
            lease_owner: name of the worker, shown as the start of its lease owners.
            wait_s: how long one claim waits at the server for work, in seconds, at most 30. A stop waits for it: a claim
                that is broken off may have taken a run that nobody then executes.
            poll_s: longest pause between claims when the server answers at once that there is nothing, in seconds.
            park_after_s: after how long a run in which everything waits (gates, sleeps, signals) is given up, in
                seconds. It comes back when its wait is over.
            on_error: called with an error and, for failed runs, the run. Prints to stderr unless given.

        Raises:
            TidebaseError: when the server refuses to give work (a wrong key, for example).
        """
        if isinstance(queues, str):
            raise TypeError("queues must be a list of names, not one string")
        for each in workflows:
            self._workflows[each.name] = each.fn
        options = Work(
            queues, concurrency, stop or Stop(), grace_s, lease_owner, wait_s, poll_s, park_after_s, on_error
        )
        with until_told(options.stop if stop is None else None):
            return await Worker(self._engine, options).run()

    def webhook(
        self,
        raw_body: bytes,
        signature: Optional[str],
        *,
        stop: Optional[Stop] = None,
        park_after_s: float = PARK_AFTER_S,
        on_error: Optional[OnWebhookError] = None,
    ) -> WebhookReply:
        """Takes one of the server's webhooks (``run.invoke``, ``run.resume``): verifies the signature and executes the
        registered workflow afterwards, as a task.

        Args:
            raw_body: as received.
            signature: the header ``x-tidebase-signature``.
            stop: stops the execution.
            park_after_s: as for ``work``, in seconds.
            on_error: called with the error and the run's id when the run failed. Prints to stderr unless given.

        Returns:
            the ``status`` and the JSON ``body`` to answer with: 202, or 401, 404, 413 or 422 with
            ``{error, code, hint}``.

        Raises:
            TidebaseError: ``webhook_secret_missing``.
        """
        options = Begin(stop=stop, park_after_s=park_after_s, leave=True)
        return accept(self._engine, self._webhook_secret, raw_body, signature, options, on_error)


async def _check_name(engine: Engine, run_id: str, name: str) -> None:
    """Asked before anything is begun: to execute a run with another workflow's code would spoil it."""
    reply = await engine.call("GET", "/runs/{run_id}", run_id=run_id, query={"include": "run"})
    found = reply["run"]["workflowName"]
    if found != name:
        raise TidebaseError(
            f'Run {run_id} is of workflow "{found}", not "{name}".',
            code="workflow_mismatch",
            hint="Check the run id, or run it as the workflow it is of.",
        )

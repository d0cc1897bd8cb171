"""The run as its workflow sees it. Everything a workflow says to the server goes through its lease, so that a workflow
whose run was cancelled or taken over can neither write nor wait."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Union, cast

from .children import Children, creator
from .core.execute import Engine, Held, Workflow
from .core.gates import GateDecision, GatesCore
from .core.lease import Lease
from .core.parking import Parking
from .core.steps import Steps
from .core.waits import ReceivedSignal, Waits
from .core.wire import body
from .gates import Gates
from .ids import new_usage_id
from .runtime import wait
from .state import Snapshots, States
from .steps import StepRunner
from .stop import Stop
from .streams import TextStream


class RunContext(StepRunner):
    """What a workflow function gets as its first argument.

    Attributes:
        id: ``run_…``
        workflow_name: what the run executes.
        attempt: 1 for the first execution of the run, then one more for each.
        metadata: as given when the run was created.
        stop: stopped when the run is cancelled, taken over, told to stop, or over. Look at it in whatever takes long.
        state: versioned JSON that the run shows to the world while it works.
        snapshots: labelled states of targets outside the run.
        gates: gates without waiting.
        children: child runs without executing them.
    """

    def __init__(self, engine: Engine, lease: Lease, held: Held, parking: Parking) -> None:
        super().__init__(lease, Steps(lease, held.checkpoints, parking))
        self.id: str = held.run["id"]
        self.workflow_name: str = held.run["workflowName"]
        self.attempt: int = held.run["attempt"]
        self.metadata: Dict[str, Any] = held.run.get("metadata") or {}
        self.stop: Stop = lease.stop
        self.state = States(lease)
        self.snapshots = Snapshots(lease)
        self._engine = engine
        self._gates = GatesCore(lease, parking)
        self._waits = Waits(lease, parking)
        self.gates = Gates(self._gates)
        self.children = Children(lease)

    def __repr__(self) -> str:
        return f"RunContext({self.id!r}, {self.workflow_name!r}, attempt={self.attempt})"

    def gate(
        self,
        name: str,
        prompt: Optional[str] = None,
        *,
        data: Any = None,
        channels: Any = None,
        capability: Any = None,
        timeout_s: Optional[float] = None,
        on_timeout: Optional[str] = None,
        poll_s: Optional[float] = None,
    ) -> GateDecision:
        """Asks a human and waits for the decision, however long that takes.

        Asking again after a crash is the same question. In a run that came from a queue or a webhook a long wait holds
        no worker; see ``sleep``.

        Args:
            name: its name in the run.
            prompt: the question, for people; the name unless given.
            data: any JSON that helps to decide.
            channels: webhooks told of this gate, beside the run's.
            capability: what is asked for, such as ``{"name": "report.send"}``. For people.
            timeout_s: after so many seconds the server decides ``on_timeout``, whether or not this program runs.
            on_timeout: ``approved``, ``rejected`` or ``canceled`` (unless given).
            poll_s: how long one question to the server waits for the decision, in seconds; 25 unless given, at most 30.

        Returns:
            the decision.

        Raises:
            RunCancelled: when the run is cancelled meanwhile.
            LeaseLostError: when another worker took the run over.
        """
        asked = self._gates.begin(
            name, name if prompt is None else prompt, data, channels, capability, timeout_s, on_timeout
        )
        return wait(self._gates.decide(wait(asked), poll_s))

    def sleep(self, time: Union[float, timedelta, datetime], *, name: Optional[str] = None) -> None:
        """Sleeps by the server's clock, also across crashes: a resumed run sleeps for what is left.

        In a run that came from a queue or a webhook a long sleep holds no worker: after ``park_after_s`` in which
        everything waits the run is parked, and executed again from its checkpoints when the time has come.

        Args:
            time: seconds, a timedelta, or a point in time.
            name: of the timer in the run; ``sleep#1``, ``sleep#2``, … unless given.

        Raises:
            RunCancelled: when the run is cancelled meanwhile.
        """
        return wait(self._waits.sleep(time, name))

    def wait_for_signal(self, name: str, *, timeout_s: Optional[float] = None) -> Optional[ReceivedSignal]:
        """Waits for the next signal of a name: ``tide.runs.signal(id, name, payload)`` sends one, also before anybody waits.

        Signals are taken in the order they came, each once. Holds no worker, as ``sleep``.

        Args:
            name: the signal's.
            timeout_s: how long to wait at most, in seconds; without it, for ever.

        Returns:
            the signal, or None when none came in time.

        Raises:
            RunCancelled: when the run is cancelled meanwhile.
        """
        return wait(self._waits.signal(name, timeout_s))

    def child(
        self,
        name: str,
        workflow: Union[str, Workflow[Any], Callable[..., Any]],
        *,
        input: Any = None,
        metadata: Optional[Mapping[str, Any]] = None,
        recovery_webhook: Optional[str] = None,
        channels: Optional[Sequence[Mapping[str, Any]]] = None,
        edge_type: Optional[str] = None,
        edge_metadata: Optional[Mapping[str, Any]] = None,
    ) -> Any:
        """Executes a child run and waits for its result.

        The child is a run of its own, found again by its name when the parent is resumed; a completed child gives its
        recorded result without executing. Cancelling the parent stops it.

        Args:
            name: the child's name in this run.
            workflow: a registered workflow, its name, or a function.
            input: any JSON; the child's workflow gets it.
            metadata: a JSON object to find the child by.
            recovery_webhook: called (signed) when the child fails or its worker is gone.
            channels: webhooks told of the child's events.
            edge_type: what the child is to its parent. For people.
            edge_metadata: a JSON object.

        Returns:
            the child's result.

        Raises:
            what the child's workflow raised; RunCancelled when the child was cancelled.
        """
        more = body(
            input=input,
            metadata=metadata,
            recoveryWebhook=recovery_webhook,
            channels=channels,
            edgeType=edge_type,
            edgeMetadata=edge_metadata,
        )
        create = creator(self._lease, name, more)
        with self._lease.during():
            return wait(self._engine.child(self._lease, create, name, workflow))

    def stream(self, name: str) -> TextStream:
        """A stream of text for those who watch the run, such as an answer that is being written.

        A step's function has one of its own, ``step.stream(chunk)``; this is for everything else. It lives until the
        run ends.

        Args:
            name: its name in the run; starts over when the name was used before.

        Returns:
            ``write(chunk)``, which never waits, and ``close()``, which sends what is left.
        """
        return TextStream(self._lease, name)

    def usage(
        self,
        *,
        kind: Optional[str] = None,
        provider: Optional[str] = None,
        model: Optional[str] = None,
        label: Optional[str] = None,
        quantity: Optional[float] = None,
        unit: Optional[str] = None,
        input_tokens: Optional[int] = None,
        output_tokens: Optional[int] = None,
        total_tokens: Optional[int] = None,
        cost_usd: Optional[float] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        step_id: Optional[str] = None,
        id: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Writes an entry into the run's ledger, once even when its acknowledgement is lost.

        Call it inside the step that caused the cost: then a resumed run, which does not run the step again, does not
        count it again.

        Args:
            kind: such as ``llm``; ``custom`` unless given.
            provider, model, label: what was used. For people and for sums.
            quantity, unit: how much of what.
            input_tokens, output_tokens: numbers of tokens.
            total_tokens: input plus output unless given.
            cost_usd: in dollars.
            metadata: a JSON object.
            step_id: the step that caused it.
            id: ``use_…``; a new one unless given.

        Returns:
            the entry.

        Raises:
            RunCancelled: also when the entry crossed the run's budget, at the next call.
            LeaseLostError: when the run is not ours any more.
        """
        entry = body(
            id=id or new_usage_id(),
            kind=kind,
            provider=provider,
            model=model,
            label=label,
            quantity=quantity,
            unit=unit,
            inputTokens=input_tokens,
            outputTokens=output_tokens,
            totalTokens=total_tokens,
            costUsd=cost_usd,
            metadata=metadata,
            stepId=step_id,
        )
        reply = wait(self._lease.call("POST", "/usage", body=entry))
        return cast(Dict[str, Any], reply["usage"])

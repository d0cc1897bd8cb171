"""Steps: the units of work whose outputs are checkpoints. One execution of a run has one `Steps`.

    recorded before ─────────────────────────────────────────────────▶ its output, the function does not run
    replay-safe:   run ──(after 100 ms: begin, as a note)──▶ record  ─▶ one durable write, after the work
    otherwise:     begin ─▶ run ─▶ complete                            a durable begin first, so that a crash in the
                                                                        middle is seen and not silently repeated
    failed:        [begin] ─▶ fail ─▶ StepError

Invariants: a recorded output wins over a computed one; the function of a step that is recorded never runs; a step
called twice at once runs once; what a step returns is what a resumed run would get, so JSON.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Awaitable, Callable, Dict, List, Optional, Sequence, Set, Tuple

from ..contract import input_hash, resume_decision
from ..errors import (
    InputMismatchError,
    ManualReviewError,
    RunCancelled,
    StepError,
    StepTimeoutError,
    TidebaseError,
    error_text,
    to_json,
)
from ..runtime import Limit, wants_argument
from ..stop import Stop
from ..transport import backoff
from .lease import Lease
from .note import Note
from .parking import Parking
from .stack import error_with_stack
from .streams import StreamWriter
from .waits import Numbers
from .wire import body, ms

# The output itself is at fault: it cannot be recorded, however often that is tried.
UNFIT = {"not_json", "body_too_large", "invalid_body", "invalid_json"}


@dataclass(frozen=True)
class StepContext:
    """What a step's function gets when it takes an argument.

    Attributes:
        stop: stopped at the time limit and when the run is over. Look at it in whatever takes long.
        attempt: 1 for the first try in this execution.
        name: the name the step is recorded under.
        idempotency_key: as given, to pass on.
        index: which item of a fanout it is, from 0.
    """

    stop: Stop
    attempt: int
    name: str
    idempotency_key: Optional[str] = None
    index: int = 0
    _write: Callable[[str], None] = field(default=lambda chunk: None, repr=False, compare=False)

    def stream(self, chunk: str) -> None:
        """Shows text to those who watch the run while the step works, such as the tokens of a model as they come.

        It is sent now and then, never waited for, and gone when the step is recorded: what matters belongs into the
        output.
        """
        self._write(chunk)


@dataclass
class StepOptions:
    """How a step runs, and what may happen to it when it is not known how it ended; see `RunContext.step`."""

    input: Any = None
    input_hash: Optional[str] = None
    each: bool = False
    retries: int = 0
    backoff_s: Optional[float] = None
    timeout_s: Optional[float] = None
    side_effects: Optional[Sequence[str]] = None
    idempotency_key: Optional[str] = None
    replay: Optional[str] = None
    checkpoint_invariant: Optional[str] = None
    verified_by: Any = None
    credentials: Any = None

    def wire(self) -> Optional[Dict[str, Any]]:
        """The options as they are recorded, and none when none are given."""
        given = body(
            retries=self.retries or None,
            backoffMs=ms(self.backoff_s),
            timeoutMs=ms(self.timeout_s),
            sideEffects=None if self.side_effects is None else list(self.side_effects),
            idempotencyKey=self.idempotency_key,
            replay=self.replay,
            checkpointInvariant=self.checkpoint_invariant,
            verifiedBy=self.verified_by,
            credentials=self.credentials,
        )
        return given or None


class _Call:
    """A step with everything that identifies it on the wire."""

    def __init__(self, name: str, options: StepOptions, index: int) -> None:
        if isinstance(options.side_effects, str):
            raise TypeError("side_effects must be a list of names, not one string")
        self.name = name
        self.options = options
        self.index = index
        to_json(options.input, f'the input of step "{name}"')
        self.hash = options.input_hash or input_hash(options.input)
        self.recorded_options = options.wire()
        self.decision = resume_decision(self.recorded_options)

    def start(self, owner: str) -> Dict[str, Any]:
        return body(
            name=self.name,
            inputHash=self.hash,
            input=self.options.input,
            options=self.recorded_options,
            leaseOwner=owner,
        )


class _Tried:
    def __init__(self, attempt: int, value: Any = None, error: Optional[Exception] = None) -> None:
        self.attempt = attempt
        self.value = value
        self.error = error


class Steps:
    """The steps of one execution."""

    def __init__(self, lease: Lease, checkpoints: Sequence[Dict[str, Any]], parking: Parking) -> None:
        self._lease = lease
        self._parking = parking
        self._checkpoints = {each["name"]: each for each in checkpoints}
        self._finished: Set[str] = set()
        self._active: Dict[str, Tuple[str, "Future[Any]"]] = {}
        self._numbers = Numbers()
        self._lock = threading.Lock()

    def number(self, name: str) -> str:
        """The next numbered name: ``llm#1``, then ``llm#2``."""
        return self._numbers.next(name)

    async def run(self, name: str, options: StepOptions, fn: Callable[..., Any], index: int = 0) -> Any:
        """Runs a step, or gives the output it had.

        Raises:
            StepError, InputMismatchError: and whatever ended the run.
        """
        self._lease.check()
        step = _Call(self.number(name) if options.each else name, options, index)
        future: "Future[Any]" = Future()
        with self._lock:
            active = self._active.setdefault(step.name, (step.hash, future))
        if active[1] is not future:
            if active[0] != step.hash:
                raise InputMismatchError(step.name, active[0], step.hash)
            return await self._lease.runtime.outcome(active[1])
        try:
            value = await self._outcome(step, fn)
            future.set_result(value)
            return value
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._active[step.name]

    async def _outcome(self, step: _Call, fn: Callable[..., Any]) -> Any:
        with self._lock:
            checkpoint = self._checkpoints.get(step.name)
            if checkpoint and checkpoint["inputHash"] != step.hash:
                raise InputMismatchError(step.name, checkpoint["inputHash"], step.hash)
            # Given out once and then let go, so that a long run does not keep every output; the server still has it.
            self._checkpoints.pop(step.name, None)
            known = step.name in self._finished
            if checkpoint:
                self._finished.add(step.name)
        if checkpoint:
            return checkpoint.get("output")
        safe = step.decision == "safe_replay" and not known
        value = await (self._run_then_record(step, fn) if safe else self._begin_then_run(step, fn))
        with self._lock:
            self._finished.add(step.name)
        return value

    async def _run_then_record(self, step: _Call, fn: Callable[..., Any]) -> Any:
        started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        note = Note(self._lease, step.start(self._lease.owner))
        try:
            tried = await self._try(step, fn, note.again)
        finally:
            note.cancel()
        if tried.error is not None:
            # A note that arrives after the step failed would show it running for ever.
            return await self._fail(step, tried.attempt, tried.error, await note.sent())

        async def record() -> Dict[str, Any]:
            request = {
                **step.start(self._lease.owner),
                "output": tried.value,
                "attempt": tried.attempt,
                "startedAt": started_at,
            }
            reply: Dict[str, Any] = await self._lease.call("POST", "/steps/record", body=request)
            return reply

        try:
            reply = await self._until_free(record)
            return tried.value if reply["action"] == "recorded" else self._settled(step, reply)
        except TidebaseError as error:
            if error.code not in UNFIT:
                raise
            return await self._fail(step, tried.attempt, error, None)

    async def _begin_then_run(self, step: _Call, fn: Callable[..., Any]) -> Any:
        begun = await self._begin_reviewed(step)
        if begun["action"] != "execute":
            return self._settled(step, begun)
        step_id: str = begun["step"]["id"]
        tried = await self._try(step, fn, lambda error: self._begin(step, error))
        if tried.error is not None:
            return await self._fail(step, tried.attempt, tried.error, step_id)
        try:
            await self._lease.call(
                "POST",
                "/steps/{step_id}/complete",
                step_id=step_id,
                body={"leaseOwner": self._lease.owner, "output": tried.value},
            )
            return tried.value
        except TidebaseError as error:
            if error.code not in UNFIT:
                raise
            return await self._fail(step, tried.attempt, error, step_id)

    async def _begin(self, step: _Call, error: Optional[Exception] = None) -> Dict[str, Any]:
        request = body(**step.start(self._lease.owner), lastError=error and error_text(error))

        async def begin() -> Dict[str, Any]:
            reply: Dict[str, Any] = await self._lease.call("POST", "/steps/begin", body=request)
            return reply

        return await self._until_free(begin)

    async def _begin_reviewed(self, step: _Call) -> Dict[str, Any]:
        """Begins a step; where it waits for a decision the run does too, if it may."""
        while True:
            try:
                return await self._begin(step)
            except ManualReviewError as error:
                if not self._parking.allowed:
                    raise
                await self._parking.until(error.step_id)

    async def _fail(self, step: _Call, attempt: int, cause: Exception, step_id: Optional[str]) -> Any:
        """Records the failure and raises it, unless an output turns out to be recorded: that wins."""
        self._lease.check()
        try:
            if step_id is None:
                begun = await self._begin(step)
                if begun["action"] != "execute":
                    return self._settled(step, begun)
                step_id = str(begun["step"]["id"])
            await self._lease.call(
                "POST",
                "/steps/{step_id}/fail",
                step_id=step_id,
                body={
                    "leaseOwner": self._lease.owner,
                    "error": error_with_stack(cause),
                    "retryable": step.decision == "safe_replay",
                    "resumeDecision": step.decision,
                },
            )
        except InputMismatchError:
            raise
        except Exception:
            self._lease.check()
            # What went wrong in the step matters more than that it could not be written down.
        raise StepError(step.name, attempt, cause) from cause

    def _settled(self, step: _Call, reply: Dict[str, Any]) -> Any:
        """The recorded output of a step that is not ours to run, or the error that stands for the answer."""
        if reply["action"] == "return":
            return reply.get("output")
        if reply["action"] == "cancelled":
            self._lease.lose(RunCancelled(self._lease.run_id))
            self._lease.check()
        if reply["action"] == "input_mismatch":
            raise InputMismatchError(step.name, reply["expectedInputHash"], reply["actualInputHash"])
        raise TidebaseError(
            f'Step "{step.name}" was answered with "{reply["action"]}".',
            code="unexpected_answer",
            hint="Use an SDK and a server of the same release.",
        )

    async def _until_free(self, call: Callable[[], Awaitable[Dict[str, Any]]]) -> Dict[str, Any]:
        """Repeats a call while another worker's lease of the step lives. It ends with that worker or with its lease."""
        attempt = 0
        while True:
            reply = await call()
            if reply["action"] != "locked":
                return reply
            await self._lease.runtime.sleep(backoff(attempt, 0.05, 1.0), self._lease.stop)
            attempt += 1

    async def _try(
        self, step: _Call, fn: Callable[..., Any], before_retry: Callable[[Exception], Awaitable[Any]]
    ) -> _Tried:
        """Tries the function as often as it may be tried. Raises only what ended the run."""
        options = step.options
        base = 0.5 if options.backoff_s is None else options.backoff_s
        attempt = 1
        while True:
            try:
                return _Tried(attempt, value=await self._attempt(step, fn, attempt))
            except Exception as error:
                self._lease.check()
                if attempt > options.retries or getattr(error, "retryable", None) is False:
                    return _Tried(attempt, error=error)
                failed = error
            await self._lease.runtime.sleep(backoff(attempt - 1, base, max(base, 30.0)), self._lease.stop)
            await before_retry(failed)
            attempt += 1

    async def _attempt(self, step: _Call, fn: Callable[..., Any], attempt: int) -> Any:
        """One try, within its time limit. A function that ignores its stop is left behind, not waited for."""
        timeout_s = step.options.timeout_s
        stop = Stop()
        writer = StreamWriter(self._lease, step.name)
        unwatch = self._lease.stop.watch(lambda: stop.stop(self._lease.stop.reason))
        try:
            key, index = step.options.idempotency_key, step.index
            context = StepContext(stop, attempt, step.name, key, index, writer.write)
            args: List[Any] = [context] if wants_argument(fn) else []
            limit = Limit(timeout_s, lambda: StepTimeoutError(step.name, timeout_s or 0), stop) if timeout_s else None
            value = await self._lease.runtime.invoke(fn, args, self._lease.stop, limit)
            if value is None or isinstance(value, (str, bool)):
                return value
            # What a resumed run would get: tuples are lists then, and keys are strings.
            return json.loads(to_json(value, f'the output of step "{step.name}"'))
        finally:
            unwatch()
            writer.stop()

"""Errors: whatever the SDK raises by itself is a TidebaseError with a code and a hint; the few that programs branch on
have a class of their own. What a workflow's own code raises passes through unchanged (steps wrap it: StepError).
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Sequence


class TidebaseError(Exception):
    """Any failure that Tidebase or this SDK reports.

    Attributes:
        code: snake_case name that programs may branch on.
        hint: what to do next.
        status: HTTP status; 0 when the error did not come in an answer.
        issues: what is wrong with a request, as ``{"path", "message"}``.
        retryable: whether the same call may succeed later.
        failure_class: recorded with the run when this error ends it.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        hint: str,
        status: int = 0,
        issues: Optional[Sequence[Dict[str, Any]]] = None,
        retryable: bool = False,
        failure_class: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.status = status
        self.issues: List[Dict[str, Any]] = list(issues or [])
        self.retryable = retryable
        self.failure_class = failure_class


class RunCancelled(TidebaseError):
    """The run was cancelled. It never changes again; stop working on it."""

    def __init__(
        self,
        run_id: str,
        message: str = "The run is cancelled.",
        hint: str = "Stop working on it; a cancelled run never changes again.",
    ) -> None:
        super().__init__(message, code="run_cancelled", hint=hint, status=409)
        self.run_id = run_id


class LeaseLostError(TidebaseError):
    """Another worker has the run now. Whatever this one still writes is refused."""

    def __init__(
        self,
        run_id: str,
        message: str = "The lease is not yours any more.",
        hint: str = "Stop working on this run: another worker took over.",
    ) -> None:
        super().__init__(message, code="lease_lost", hint=hint, status=409)
        self.run_id = run_id


class RunLeasedError(TidebaseError):
    """Another worker is executing the run. ``lease_owner`` tells who."""

    def __init__(self, run_id: str, lease_owner: Optional[str]) -> None:
        super().__init__(
            f"Run {run_id} is being executed by {lease_owner or 'another worker'}.",
            code="run_leased",
            hint="Try again when its lease has ended, wait for it with `lease_wait_s`, or begin as the same `lease_owner`.",
            status=409,
            retryable=True,
        )
        self.run_id = run_id
        self.lease_owner = lease_owner


class RunParkedError(BaseException):
    """The run was given up while it waits for a gate, a timer or a signal; it is executed again when that is over.

    Not an ``Exception``, so that no ``except Exception`` of a workflow takes parking for a failure: it unwinds the
    workflow (``finally`` and ``with`` run), and the worker that executed it takes it.
    """

    code = "run_parked"
    hint = "Nothing to do: it goes on by itself when what it waits for is over."

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} is parked: it waits without a worker.")
        self.run_id = run_id


class ManualReviewError(TidebaseError):
    """A worker died in the middle of a step that may not be repeated blindly. Somebody has to decide about it."""

    def __init__(self, run_id: str, step_id: str, message: str) -> None:
        super().__init__(
            message,
            code="manual_review",
            hint=f"Find out whether it happened, then tide.runs.resolve_step('{run_id}', '{step_id}', 'retry'), "
            "'complete' with its output, or 'fail'.",
            status=409,
            failure_class="manual_review",
        )
        self.run_id = run_id
        self.step_id = step_id


class UnreachableError(TidebaseError):
    """No usable answer came: the server is down, restarting, or elsewhere."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(
            f"Cannot reach Tidebase at {url}: {what}.",
            code="unreachable",
            hint="Start a server with `npx tidebase start`, or set TIDEBASE_URL to the one you mean.",
            retryable=True,
        )
        self.url = url


class InputMismatchError(TidebaseError):
    """A step was recorded under another input than the one it is called with now."""

    def __init__(self, step: str, expected_input_hash: str, actual_input_hash: str) -> None:
        super().__init__(
            f'Step "{step}" was recorded with another input (recorded {expected_input_hash}, '
            f"given now {actual_input_hash}).",
            code="input_mismatch",
            hint="Give the step the input it had before, or another name when it is other work.",
            status=409,
            failure_class="input_mismatch",
        )
        self.step = step
        self.expected_input_hash = expected_input_hash
        self.actual_input_hash = actual_input_hash


class StepError(TidebaseError):
    """A step failed for good in this attempt of the run. ``__cause__`` is what its function raised last."""

    def __init__(self, step: str, attempts: int, cause: BaseException) -> None:
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(
            f'Step "{step}" failed{tries}: {error_text(cause)}',
            code="step_failed",
            hint="See `__cause__`. Begin the run again to resume it: completed steps are not repeated.",
            retryable=True,
            failure_class=failure_class_of(cause),
        )
        self.__cause__ = cause
        self.step = step
        self.attempts = attempts


class StepTimeoutError(TidebaseError):
    """A step's function did not end within its ``timeout_s``."""

    def __init__(self, step: str, timeout_s: float) -> None:
        super().__init__(
            f'Step "{step}" did not end within {round(timeout_s * 1000)} ms.',
            code="step_timeout",
            hint="Raise `timeout_s`, or allow `retries`. Let the function look at `step.stop` so that the work stops too.",
            retryable=True,
            failure_class="timeout",
        )
        self.step = step
        self.timeout_s = timeout_s


class FanoutError(TidebaseError):
    """Some items of a fanout failed. The others are recorded and are not repeated when the run is resumed.

    Attributes:
        results: one entry per item, in order: ``{"value": …}`` or ``{"error": …}``; an item that was never started has
            an error with code ``fanout_stopped``.
    """

    def __init__(self, fanout: str, results: Sequence[Dict[str, Any]]) -> None:
        failed = [each["error"] for each in results if "error" in each]
        cause = next((error for error in failed if getattr(error, "code", None) != "fanout_stopped"), failed[0])
        super().__init__(
            f'{len(failed)} of {len(results)} items of "{fanout}" failed: {error_text(cause)}',
            code="fanout_failed",
            hint="`results` tells which. Begin the run again to repeat the failed items only.",
            retryable=True,
            failure_class=failure_class_of(cause),
        )
        self.__cause__ = cause
        self.fanout = fanout
        self.results = list(results)


def error_text(error: BaseException) -> str:
    """The text of an error as it is recorded: name and message, never the traceback; at most 10,000 characters."""
    try:
        message = str(error)
    except Exception:  # an error whose own text fails must not hide that it happened
        message = ""
    name = type(error).__name__
    # The names of our own errors say nothing that their messages do not.
    plain = type(error) is Exception or isinstance(getattr(error, "hint", None), str)
    if not message:
        return name
    return (message if plain else f"{name}: {message}")[:10_000]


def failure_class_of(error: BaseException) -> Optional[str]:
    """The ``failure_class`` an error carries, if it carries one."""
    given = getattr(error, "failure_class", None)
    return given if isinstance(given, str) else None


def error_from_reply(status: int, body: Any, run_id: str) -> TidebaseError:
    """The error for an answer that is not 2xx.

    Args:
        status: HTTP status.
        body: the parsed body; anything when it was not JSON.
        run_id: the run the call was about, or ``""``.
    """
    fields: Dict[str, Any] = body if isinstance(body, dict) else {}

    def text(key: str) -> Optional[str]:
        value = fields.get(key)
        return value if isinstance(value, str) else None

    message = text("error") or f"Tidebase answered {status}."
    code = text("code") or ("run_leased" if message == "run is leased" else "http_error")
    hint = text("hint") or "Check that TIDEBASE_URL is the address of a Tidebase server."
    if code == "run_cancelled":
        return RunCancelled(run_id, message, hint)
    if code == "lease_lost":
        return LeaseLostError(run_id, message, hint)
    if code == "run_leased":
        return RunLeasedError(run_id, text("leaseOwner"))
    if code == "manual_review":
        return ManualReviewError(run_id, text("stepId") or "", message)
    given = fields.get("issues")
    issues = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    return TidebaseError(
        f"{message} {_issue_text(issues)}" if issues else message,
        code=code,
        hint=hint,
        status=status,
        issues=issues,
        retryable=status in (408, 425, 429) or status >= 500,
    )


def _issue_text(issues: Sequence[Dict[str, Any]]) -> str:
    shown = "; ".join(f"{each.get('path')}: {each.get('message')}" for each in issues[:3])
    return f"({shown}{'; …' if len(issues) > 3 else ''})"


def to_json(value: Any, what: str) -> str:
    """The JSON text of a value.

    Raises:
        TidebaseError: ``not_json`` when it is not JSON: other objects, cycles, NaN.
    """
    try:
        return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise TidebaseError(
            f"What was given to {what} is not JSON: {error}.",
            code="not_json",
            hint="Inputs, outputs, states and results are stored as JSON: turn other objects into dicts first, "
            "dates with .isoformat().",
        ) from error

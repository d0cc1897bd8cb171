"""Webhooks in: the server asks for a run to be executed (`run.invoke`, `run.resume`). Answered at once; the work goes on
afterwards. Deliveries are at least once, so a second one meets the first one's lease and is dropped.

Invariant: nothing in the body is looked at before the signature over its raw bytes is verified.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

from ..errors import RunCancelled, RunLeasedError, RunParkedError, TidebaseError, error_text
from ..signature import verify_webhook_signature
from .execute import Begin, Engine, WorkflowFn

OnWebhookError = Callable[[BaseException, str], None]
MAX_BODY_BYTES = 1_048_576


@dataclass(frozen=True)
class WebhookReply:
    """What to answer to a webhook: an HTTP status and a JSON body."""

    status: int
    body: Dict[str, Any]


def accept(
    engine: Engine,
    secret: Optional[str],
    body: bytes,
    signature: Optional[str],
    options: Begin,
    on_error: Optional[OnWebhookError],
) -> WebhookReply:
    """Verifies a webhook and starts its work; see `Tidebase.webhook`."""
    if not secret:
        raise TidebaseError(
            "A webhook handler needs the secret that the server signs with.",
            code="webhook_secret_missing",
            hint="Set TIDEBASE_WEBHOOK_SECRET here and on the server, or pass `webhook_secret`.",
        )
    if len(body) > MAX_BODY_BYTES:
        return _refuse(413, "body_too_large", "The body is too large.", "Tidebase sends less than 1 MiB.")
    if not verify_webhook_signature(secret, body, signature):
        return _refuse(
            401,
            "invalid_signature",
            "The signature does not match the body.",
            "Use the same TIDEBASE_WEBHOOK_SECRET here and on the server, and pass the raw body on unchanged.",
        )
    try:
        payload: Any = json.loads(body)
    except ValueError:
        payload = None
    fields: Dict[str, Any] = payload if isinstance(payload, dict) else {}
    run_id, name = fields.get("runId"), fields.get("workflowName")
    known = fields.get("type") in ("run.invoke", "run.resume")
    if not known or not isinstance(run_id, str) or not isinstance(name, str):
        return _refuse(
            422,
            "unknown_webhook",
            "This is not a request to execute a run.",
            "Point recovery_webhook and invoke_url here; handle channels with `verify_webhook_signature` at an address "
            "of their own.",
        )
    fn = engine.workflows.get(name)
    if fn is None:
        return _refuse(
            404,
            "workflow_not_registered",
            f'No workflow "{name}" is registered here.',
            f"Register it with @tide.workflow('{name}') before deliveries arrive.",
        )
    engine.runtime.spawn(lambda: _execute(engine, str(run_id), fn, options, on_error or _print))
    return WebhookReply(202, {"accepted": True, "runId": run_id})


async def _execute(engine: Engine, run_id: str, fn: WorkflowFn, options: Begin, on_error: OnWebhookError) -> None:
    try:
        await engine.resume(run_id, fn, options)
    except (RunLeasedError, RunCancelled, RunParkedError):
        # Somebody executes it already, or it is over, or it waits: what the webhook asked for is taken care of.
        pass
    except Exception as error:
        try:
            on_error(error, run_id)
        except Exception as raised:
            _print(raised, run_id)


def _refuse(status: int, code: str, error: str, hint: str) -> WebhookReply:
    return WebhookReply(status, {"error": error, "code": code, "hint": hint})


def _print(error: BaseException, run_id: str) -> None:
    print(f"tidebase: run {run_id} failed: {error_text(error)}", file=sys.stderr)

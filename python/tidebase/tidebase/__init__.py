"""Tidebase: durable runs for AI agents.

    from tidebase import Tidebase

    tide = Tidebase()

    def report(run, input):
        plan = run.step("plan", lambda: make_plan(input["topic"]))
        return run.step("write", lambda: write(plan), retries=3)

    tide.run("report", report, input={"topic": "tides"})

The asyncio client is ``tidebase.aio.AsyncTidebase``.
"""

from .attached import Attached
from .client import Tidebase
from .contract import input_hash, resume_contract, resume_decision
from .core.execute import Workflow
from .core.gates import GateDecision
from .core.jobs import Enqueued, job
from .core.steps import StepContext
from .core.waits import ReceivedSignal
from .core.webhook import WebhookReply
from .errors import (
    FanoutError,
    InputMismatchError,
    LeaseLostError,
    ManualReviewError,
    RunCancelled,
    RunLeasedError,
    RunParkedError,
    StepError,
    StepTimeoutError,
    TidebaseError,
    UnreachableError,
)
from .ids import new_run_id
from .run import RunContext
from .signature import sign_webhook, verify_webhook_signature
from .stop import Stop
from .streams import TextStream

__version__ = "0.1.0"

__all__ = [
    "Attached",
    "Enqueued",
    "FanoutError",
    "GateDecision",
    "InputMismatchError",
    "LeaseLostError",
    "ManualReviewError",
    "ReceivedSignal",
    "RunCancelled",
    "RunContext",
    "RunLeasedError",
    "RunParkedError",
    "StepContext",
    "StepError",
    "StepTimeoutError",
    "Stop",
    "TextStream",
    "Tidebase",
    "TidebaseError",
    "UnreachableError",
    "WebhookReply",
    "Workflow",
    "input_hash",
    "job",
    "new_run_id",
    "resume_contract",
    "resume_decision",
    "sign_webhook",
    "verify_webhook_signature",
]

"""Runs held without a workflow function around the work."""

from __future__ import annotations

from typing import Any

from .core.execute import Engine, Held
from .core.lease import Lease
from .core.parking import Parking
from .run import RunContext
from .runtime import wait


class Attached:
    """A run held by this program without a workflow function around it; see ``tide.runs.attach``.

    Attributes:
        run: the run context.
        input: the run's input.
    """

    def __init__(self, engine: Engine, held: Held, lease: Lease) -> None:
        self.run: RunContext = engine.context(engine, lease, held, Parking(lease, None))
        self.input: Any = held.run.get("input")
        self._engine = engine
        self._held = held
        self._lease = lease

    def complete(self, result: Any = None) -> None:
        """Ends the run with its result.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        try:
            wait(self._engine.complete(self._lease, self._held.run, result))
        finally:
            self._lease.close()

    def fail(self, error: BaseException) -> None:
        """Ends the attempt with an error."""
        try:
            wait(self._engine.fail(self._lease, error))
        finally:
            self._lease.close()

    def detach(self) -> None:
        """Lets go without an end: the lease runs out and the run may be resumed."""
        self._lease.close()

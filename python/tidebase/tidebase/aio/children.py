"""Child runs that others execute."""
# Generated from ../children.py by gen_aio.py.

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Sequence, cast

from ..core.lease import Lease
from ..core.wire import body


class Children:
    """Child runs without executing them, ``run.children``."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    async def create(
        self,
        name: str,
        workflow_name: str,
        *,
        input: Any = None,
        metadata: Optional[Mapping[str, Any]] = None,
        recovery_webhook: Optional[str] = None,
        channels: Optional[Sequence[Mapping[str, Any]]] = None,
        edge_type: Optional[str] = None,
        edge_metadata: Optional[Mapping[str, Any]] = None,
    ) -> Dict[str, Any]:
        """Creates a child run and leaves its execution to others: ``tide.run(workflow_name, run_id=child["run"]["id"])``.

        Args:
            name: its name in this run; the same name is the same child.
            workflow_name: what it executes.
            input, metadata, recovery_webhook, channels, edge_type, edge_metadata: as for ``run.child``.

        Returns:
            the child's ``run``, the ``edge`` to it, and whether it was ``created`` now.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        more = body(
            input=input,
            metadata=metadata,
            recoveryWebhook=recovery_webhook,
            channels=channels,
            edgeType=edge_type,
            edgeMetadata=edge_metadata,
        )
        return cast(Dict[str, Any], (await creator(self._lease, name, more)(workflow_name)))


def creator(lease: Lease, name: str, more: Dict[str, Any]) -> Callable[[str], Any]:
    """Creates a child when it is told the workflow's name."""
    return lambda workflow_name: lease.call(
        "POST", "/children", body={"name": name, "workflowName": workflow_name, **more}
    )

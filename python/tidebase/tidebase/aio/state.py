"""State and snapshots: versioned JSON that a run shows to the world while it works.

A write that was repeated because its answer was lost may append a second, equal version; nothing is lost by it.
"""
# Generated from ../state.py by gen_aio.py.

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, cast

from ..core.lease import Lease
from ..core.wire import body


class States:
    """The state of one run, ``run.state``. The stream is ``run`` unless named."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    async def set(
        self,
        value: Any,
        *,
        stream: Optional[str] = None,
        label: Optional[str] = None,
        reason: Optional[str] = None,
        importance: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        created_by: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Replaces the value and appends a version.

        Args:
            value: any JSON.
            stream: another stream than ``run``.
            label: what people find the version by.
            reason: why, for people.
            importance: ``transient``, ``normal``, ``checkpoint`` or ``milestone``.
            metadata: a JSON object.
            created_by: who, for people.

        Returns:
            the state: ``value``, ``version``, ``updatedAt``.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        note = _note(stream, label, reason, importance, metadata, created_by)
        reply = await self._lease.call("PUT", "/state", body={**note, "value": value})
        return cast(Dict[str, Any], reply["state"])

    async def patch(
        self,
        value: Mapping[str, Any],
        *,
        stream: Optional[str] = None,
        label: Optional[str] = None,
        reason: Optional[str] = None,
        importance: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        created_by: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Merges top-level keys into the value and appends a version.

        Args:
            value: the keys to change.
            stream, label, reason, importance, metadata, created_by: as for ``set``.

        Returns:
            the state.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        note = _note(stream, label, reason, importance, metadata, created_by)
        reply = await self._lease.call("PATCH", "/state", body={**note, "value": dict(value)})
        return cast(Dict[str, Any], reply["state"])

    async def get(self, stream: str = "run") -> Any:
        """Reads the current value.

        Returns:
            the value; None when nothing was written yet.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        reply = await self._lease.call("GET", "", query={"include": "stateStreams"})
        return next((each["currentValue"] for each in reply["stateStreams"] if each["name"] == stream), None)

    async def save(
        self,
        label: str,
        *,
        stream: Optional[str] = None,
        reason: Optional[str] = None,
        importance: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        created_by: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Appends a labelled version of the current value.

        Args:
            label: what people find it by.
            stream, reason, metadata, created_by: as for ``set``.
            importance: ``milestone`` unless given.

        Returns:
            the version.

        Raises:
            TidebaseError: ``state_not_found`` when nothing was written yet.
        """
        note = _note(stream, label, reason, importance, metadata, created_by)
        reply = await self._lease.call("POST", "/state/save", body=note)
        return cast(Dict[str, Any], reply["stateVersion"])

    async def versions(self, *, stream: Optional[str] = None, labeled: bool = False) -> List[Dict[str, Any]]:
        """Lists versions by stream, then number.

        Args:
            stream: that one only.
            labeled: labelled ones only.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        query = {"stream": stream, "labeled": "true" if labeled else None}
        reply = await self._lease.call("GET", "/state/versions", query=query)
        return cast(List[Dict[str, Any]], reply["stateVersions"])


class Snapshots:
    """The snapshots of one run, ``run.snapshots``: labelled states of some target, such as a file."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    async def create(
        self,
        label: str,
        state: Any,
        *,
        target: Optional[Mapping[str, str]] = None,
        reason: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        created_by: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Records a labelled state of a target.

        Args:
            label: what people find it by.
            state: any JSON.
            target: ``{"type", "id"}``; the run itself unless given.
            reason: why, for people.
            metadata: a JSON object.
            created_by: who, for people.

        Returns:
            the version.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        note = body(label=label, target=target, reason=reason, metadata=metadata, createdBy=created_by)
        reply = await self._lease.call("POST", "/snapshots", body={**note, "state": state})
        return cast(Dict[str, Any], reply["snapshot"])

    async def list(self) -> List[Dict[str, Any]]:
        """Lists the run's labelled versions, newest first.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        reply = await self._lease.call("GET", "/snapshots")
        return cast("List[Dict[str, Any]]", reply["snapshots"])


def _note(
    stream: Optional[str],
    label: Optional[str],
    reason: Optional[str],
    importance: Optional[str],
    metadata: Optional[Mapping[str, Any]],
    created_by: Optional[str],
) -> Dict[str, Any]:
    return body(
        stream=stream, label=label, reason=reason, importance=importance, metadata=metadata, createdBy=created_by
    )

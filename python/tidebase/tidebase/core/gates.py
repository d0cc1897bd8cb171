"""Gates: a run asks a human and waits. The question and the decision are the server's; asking again by the same name,
also after a crash, is the same question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from ..errors import RunCancelled
from .lease import Lease
from .parking import POLL_S, Parking
from .wire import body, ms


@dataclass(frozen=True)
class GateDecision:
    """A decided gate.

    Attributes:
        decision: ``approved``, ``rejected`` or ``canceled``.
        approved: whether it is ``approved``.
        actor: who decided; ``timeout`` when nobody did.
        payload: what the decider sent along.
        gate: the gate as the server has it.
    """

    decision: str
    approved: bool
    actor: Optional[str]
    payload: Any
    gate: Dict[str, Any] = field(repr=False)


class GatesCore:
    """The gates of one execution."""

    def __init__(self, lease: Lease, parking: Parking) -> None:
        self._lease = lease
        self._parking = parking

    async def begin(
        self,
        name: str,
        prompt: str,
        data: Any,
        channels: Any,
        capability: Any,
        timeout_s: Optional[float],
        on_timeout: Optional[str],
    ) -> Dict[str, Any]:
        reply: Dict[str, Any] = await self._lease.call(
            "POST",
            "/gates/begin",
            body=body(
                name=name,
                prompt=prompt,
                data=data,
                channels=channels,
                capability=capability,
                timeoutMs=ms(timeout_s),
                onTimeout=on_timeout,
            ),
        )
        return reply

    async def get(self, gate_id: str, wait_s: float) -> Dict[str, Any]:
        reply: Dict[str, Any] = await self._lease.call(
            "GET",
            "/gates/{gate_id}",
            gate_id=gate_id,
            idle=True,
            query={"waitMs": ms(wait_s) or None},
            timeout_s=wait_s + 30,
        )
        return reply

    async def decide(self, begun: Dict[str, Any], poll_s: Optional[float]) -> GateDecision:
        gate: Dict[str, Any] = begun["gate"]
        if gate["status"] == "pending":
            gate_id: str = gate["id"]

            async def poll(seconds: float) -> Optional[Dict[str, Any]]:
                reply = await self.get(gate_id, seconds)
                if reply["runStatus"] == "cancelled":
                    self._lease.lose(RunCancelled(self._lease.run_id))
                self._lease.check()
                found: Dict[str, Any] = reply["gate"]
                return None if found["status"] == "pending" else found

            gate = await self._parking.during(gate_id, poll, min(poll_s or POLL_S, 30.0))
        status: str = gate["status"]
        return GateDecision(status, status == "approved", gate.get("actor"), gate.get("decisionPayload"), gate)

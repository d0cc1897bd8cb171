"""Gates without waiting for their decision."""
# Generated from ../gates.py by gen_aio.py.

from __future__ import annotations

from typing import Any, Dict, Optional

from ..core.gates import GatesCore


class Gates:
    """Gates without waiting, ``run.gates``."""

    def __init__(self, core: GatesCore) -> None:
        self._core = core

    async def begin(
        self,
        name: str,
        prompt: Optional[str] = None,
        *,
        data: Any = None,
        channels: Any = None,
        capability: Any = None,
        timeout_s: Optional[float] = None,
        on_timeout: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Opens a gate without waiting, or learns what became of it.

        Args:
            name, prompt, data, channels, capability, timeout_s, on_timeout: as for ``run.gate``.

        Returns:
            ``{"action": "return"}`` when it is decided already, else ``"wait"``, and the ``gate``.

        Raises:
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        asked = name if prompt is None else prompt
        return await self._core.begin(name, asked, data, channels, capability, timeout_s, on_timeout)

    async def get(self, gate_id: str, *, wait_s: float = 0.0) -> Dict[str, Any]:
        """Reads a gate.

        Args:
            gate_id: its id.
            wait_s: answer when it is decided, or after so many seconds (at most 30).

        Returns:
            the ``gate`` and the run's status, ``runStatus``.

        Raises:
            TidebaseError: ``gate_not_found``.
        """
        return await self._core.get(gate_id, wait_s)

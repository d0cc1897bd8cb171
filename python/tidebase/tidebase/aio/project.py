"""The project that the API key belongs to."""
# Generated from ../project.py by gen_aio.py.

from __future__ import annotations

from typing import Any, Dict, Optional, cast

from ..core.execute import Engine
from ..core.jobs import UNCHANGED


class Project:
    """Operations on the project, ``tide.project``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def get(self) -> Dict[str, Any]:
        """Its ``name``, ``retentionDays`` and ``effectiveRetentionDays``."""
        return cast(Dict[str, Any], (await self._engine.call("GET", "/project"))["project"])

    async def configure(self, *, retention_days: Optional[int] = UNCHANGED) -> Dict[str, Any]:
        """Sets how long ended runs are kept. Needs an admin key.

        Args:
            retention_days: 0 for ever, None the server's default; what is not given keeps its value.

        Returns:
            the project.
        """
        config = {} if retention_days is UNCHANGED else {"retentionDays": retention_days}
        return cast(Dict[str, Any], (await self._engine.call("PUT", "/project", body=config))["project"])

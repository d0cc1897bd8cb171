"""Small helpers for bodies on the wire."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Any, Dict, Optional, Union

Time = Union[datetime, str]


def body(**fields: Any) -> Dict[str, Any]:
    """The fields that are given: None counts as absent."""
    return {key: value for key, value in fields.items() if value is not None}


def ms(seconds: Optional[float]) -> Optional[int]:
    """Whole milliseconds, rounded up."""
    return None if seconds is None else max(0, math.ceil(round(seconds * 1000, 3)))


def iso(time: Optional[Time]) -> Optional[str]:
    """ISO 8601 in UTC. A time without a zone is local time, as everywhere in Python."""
    if time is None or isinstance(time, str):
        return time
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")

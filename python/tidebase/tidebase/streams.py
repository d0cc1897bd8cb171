"""Token streams as a workflow writes them."""

from __future__ import annotations

from .core.lease import Lease
from .core.streams import StreamWriter
from .runtime import wait


class TextStream:
    """Text for those who watch a run; see ``run.stream``."""

    def __init__(self, lease: Lease, name: str) -> None:
        self._writer = StreamWriter(lease, name)

    def write(self, chunk: str) -> None:
        """Adds text. Returns at once; it is sent within 50 ms."""
        self._writer.write(chunk)

    def close(self) -> None:
        """Sends what is left and waits for it. Nothing can be written afterwards."""
        wait(self._writer.close())

"""SIGTERM and Ctrl-C for workers."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import Any, Iterator, Optional

from .stop import Stop


@contextmanager
def until_told(stop: Optional[Stop]) -> Iterator[None]:
    """While this lasts, the first SIGTERM or SIGINT stops, and the next does what it did before.

    Only in the main thread, where alone Python takes signals; elsewhere nothing happens.
    """
    if stop is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def told(_number: int, _frame: Any) -> None:
        restore()
        # In a thread of its own: the main thread may hold any lock while it is interrupted.
        threading.Thread(target=stop.stop, daemon=True).start()

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is told:
                signal.signal(number, handler)

    for number in before:
        signal.signal(number, told)
    try:
        yield
    finally:
        restore()

"""Stop: tells work to stop, across threads and event loops. The first reason wins."""

from __future__ import annotations

import threading
from typing import Callable, List, Optional

from .errors import TidebaseError


class Stop:
    """Something that can be stopped once, and asked whether it was.

    Pass one to ``tide.run`` or ``tide.work`` and call :meth:`stop` from anywhere, also from a signal handler's thread.
    A step's function finds its own in ``step.stop``.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._callbacks: List[Callable[[], None]] = []
        self._reason: Optional[BaseException] = None
        self._event = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._reason is not None

    @property
    def reason(self) -> Optional[BaseException]:
        """Why; None while nobody stopped it."""
        return self._reason

    def stop(self, reason: Optional[BaseException] = None) -> None:
        """Stops whatever listens. Repeating it changes nothing.

        Args:
            reason: what the stopped work raises.
        """
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason or TidebaseError(
                "Told to stop.", code="stopped", hint="Somebody called stop().", failure_class="aborted"
            )
            callbacks, self._callbacks = self._callbacks, []
        self._event.set()
        for callback in callbacks:
            callback()

    def wait(self, timeout_s: Optional[float] = None) -> bool:
        """Blocks until it is stopped.

        Args:
            timeout_s: how long at most, in seconds.

        Returns:
            whether it is stopped.
        """
        return self._event.wait(timeout_s)

    def check(self) -> None:
        """Raises the reason when it is stopped."""
        if self._reason is not None:
            raise self._reason

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back when it stops, from whatever thread stops it; at once when it has already.

        Returns:
            takes the callback away again.
        """
        with self._lock:
            if self._reason is None:
                self._callbacks.append(callback)
                return lambda: self._unwatch(callback)
        callback()
        return lambda: None

    def _unwatch(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

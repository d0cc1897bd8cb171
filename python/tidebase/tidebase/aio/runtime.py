"""The asyncio runtime: coroutines really suspend, the transport's calls run in threads, and the user's functions on the
event loop."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Set, TypeVar

from ..runtime import Flag, Job, Limit, Runtime
from ..stop import Stop
from ..transport import Transport

T = TypeVar("T")

# Threads are made when none is idle. Each may hold a long-poll of 25 s, so there may be many.
MOST_CALLS = 1_000
# How long a cancelled function may take to clean up before it is left behind, in seconds.
CLEAN_UP_S = 1.0


class _LoopFlag(Flag):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            pass

    async def wait(self, timeout_s: Optional[float]) -> None:
        try:
            await asyncio.wait_for(self._event.wait(), timeout_s)
        except asyncio.TimeoutError:
            pass


class Asyncio(Runtime):
    """Suspends on the running event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: Optional[ThreadPoolExecutor] = None
        # The loop itself keeps its tasks weakly only.
        self._tasks: Set["asyncio.Task[None]"] = set()

    def flag(self) -> Flag:
        return _LoopFlag()

    async def call(self, transport: Transport, method: str, path: str, **request: Any) -> Any:
        outer: Optional[Stop] = request.pop("stop", None)
        stop = Stop()
        unwatch = outer.watch(lambda: stop.stop(outer.reason)) if outer else lambda: None
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._threads(), lambda: transport.call(method, path, stop=stop, **request)
            )
        except asyncio.CancelledError:
            # Whoever is cancelled must not leave a thread in a long-poll behind.
            stop.stop()
            raise
        finally:
            unwatch()

    async def blocking(self, work: Callable[[], T], stop: Optional[Stop]) -> T:
        value = await asyncio.get_running_loop().run_in_executor(self._threads(), work)
        if stop:
            stop.check()
        return value

    async def invoke(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        stop: Stop,
        limit: Optional[Limit] = None,
        leave: bool = False,
    ) -> Any:
        stop.check()
        value = fn(*args)
        if not inspect.isawaitable(value):
            stop.check()
            return value
        task: "asyncio.Future[Any]" = asyncio.ensure_future(value)
        # Left behind, it may still fail; nobody asks then.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        over: "asyncio.Future[None]" = asyncio.get_running_loop().create_future()
        unwatch = stop.watch(_later(over))
        try:
            await asyncio.wait(
                {task, over}, timeout=limit.seconds if limit else None, return_when=asyncio.FIRST_COMPLETED
            )
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        finally:
            unwatch()
            over.cancel()
        if task.done() and not stop.stopped:
            return task.result()
        error: Optional[Exception] = None
        if limit and not stop.stopped:
            error = limit.error()
            limit.tell.stop(error)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CLEAN_UP_S)
        if error:
            raise error
        stop.check()

    def spawn(self, job: Job) -> "Future[None]":
        future: "Future[None]" = Future()
        task = asyncio.get_running_loop().create_task(job())
        self._tasks.add(task)

        def done(ended: "asyncio.Task[None]") -> None:
            self._tasks.discard(ended)
            if not ended.cancelled():
                ended.exception()
            future.set_result(None)

        task.add_done_callback(done)
        return future

    async def together(self, jobs: Sequence[Job]) -> None:
        tasks: List["asyncio.Task[Any]"] = [asyncio.ensure_future(job()) for job in jobs]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise
        for task in tasks:
            task.result()

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(MOST_CALLS, "tidebase")
            return self._executor


def _later(future: "asyncio.Future[None]") -> Callable[[], None]:
    """Ends a future of this loop, from any thread."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not future.done():
            future.set_result(None)

    def call() -> None:
        try:
            loop.call_soon_threadsafe(end)
        except RuntimeError:
            pass

    return call


@contextmanager
def until_told(stop: Optional[Stop]) -> Iterator[None]:
    """While this lasts, the first SIGTERM or SIGINT stops, and the next does what it did before.

    Only in the main thread, where alone Python takes signals; elsewhere nothing happens.
    """
    if stop is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handled: List[int] = []

    def restore() -> None:
        while handled:
            number = handled.pop()
            loop.remove_signal_handler(number)
            signal.signal(number, before[signal.Signals(number)])

    def told() -> None:
        restore()
        assert stop is not None
        stop.stop()

    try:
        for number in before:
            loop.add_signal_handler(number, told)
            handled.append(number)
    except NotImplementedError:
        # No signals on this platform's loops.
        pass
    try:
        yield
    finally:
        restore()

"""Runtimes: the difference between the blocking SDK and the asyncio one, in one interface.

What the SDK does is written once, as coroutines that touch the world only through a runtime. `Threads` blocks within
its coroutines, so they never suspend and `wait` drives them like plain calls; `aio/runtime.py` is the other one.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
from concurrent.futures import Future
from typing import Any, AsyncIterator, Callable, Coroutine, Iterator, List, Optional, Sequence, TypeVar

from .errors import TidebaseError
from .stop import Stop
from .transport import Transport

T = TypeVar("T")
Job = Callable[[], Coroutine[Any, Any, Any]]


class Flag:
    """Something that another thread sets and a coroutine waits for."""

    def set(self) -> None:
        raise NotImplementedError

    async def wait(self, timeout_s: Optional[float]) -> None:
        """Returns when it is set, or the time is up."""
        raise NotImplementedError


class Runtime:
    """How waiting, calling and running side by side are done."""

    def flag(self) -> Flag:
        raise NotImplementedError

    async def call(self, transport: Transport, method: str, path: str, **request: Any) -> Any:
        """A call of the transport, which blocks."""
        raise NotImplementedError

    async def blocking(self, work: Callable[[], T], stop: Optional[Stop]) -> T:
        """Something else that blocks, and that the stop interrupts by itself.

        Raises:
            the stop's reason.
        """
        raise NotImplementedError

    async def invoke(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        stop: Stop,
        limit: Optional["Limit"] = None,
        leave: bool = False,
    ) -> Any:
        """A function of the user.

        Args:
            stop: its reason is raised when it stops the function, as far as that can be done.
            limit: a time limit, and what to raise then.
            leave: a function that ignores the stop is left behind, not waited for.
        """
        raise NotImplementedError

    def spawn(self, job: Job) -> "Future[None]":
        """Starts a job of which nobody waits for the outcome."""
        raise NotImplementedError

    async def together(self, jobs: Sequence[Job]) -> None:
        """Runs jobs side by side to their ends; raises what the first of them raised."""
        raise NotImplementedError

    async def sleep(self, seconds: float, stop: Optional[Stop] = None) -> None:
        """Waits, by this machine's clock.

        Raises:
            the stop's reason.
        """
        flag = self.flag()
        unwatch = stop.watch(flag.set) if stop else None
        try:
            await flag.wait(seconds)
        finally:
            if unwatch:
                unwatch()
        if stop:
            stop.check()

    async def outcome(self, future: "Future[T]") -> T:
        """The result of a future, from wherever it is set."""
        flag = self.flag()
        future.add_done_callback(lambda _: flag.set())
        await flag.wait(None)
        return future.result()


class Limit:
    """A time limit and what to raise when it is over."""

    def __init__(self, seconds: float, error: Callable[[], Exception], tell: Stop) -> None:
        self.seconds = seconds
        self.error = error
        self.tell = tell


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never suspends, such as one over the `Threads` runtime."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a blocking call suspended")


def drain(work: AsyncIterator[T]) -> Iterator[T]:
    """The values of an asynchronous iterator that never suspends."""
    try:
        while True:
            try:
                yield wait(_next(work))
            except StopAsyncIteration:
                return
    finally:
        close = getattr(work, "aclose", None)
        if close:
            wait(close())


async def _next(work: AsyncIterator[T]) -> T:
    return await work.__anext__()


class _ThreadFlag(Flag):
    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: Optional[float]) -> None:
        self._event.wait(timeout_s)


class Threads(Runtime):
    """Blocks; what runs side by side does so in daemon threads."""

    def flag(self) -> Flag:
        return _ThreadFlag()

    async def call(self, transport: Transport, method: str, path: str, **request: Any) -> Any:
        return transport.call(method, path, **request)

    async def blocking(self, work: Callable[[], T], stop: Optional[Stop]) -> T:
        value = work()
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
        if limit is None and not leave:
            value = _plain(fn(*args))
            stop.check()
            return value
        future = in_thread(lambda: _plain(fn(*args)))
        flag = self.flag()
        future.add_done_callback(lambda _: flag.set())
        unwatch = stop.watch(flag.set)
        try:
            await flag.wait(limit.seconds if limit else None)
        finally:
            unwatch()
        stop.check()
        if future.done():
            return future.result()
        assert limit is not None
        error = limit.error()
        limit.tell.stop(error)
        raise error

    def spawn(self, job: Job) -> "Future[None]":
        return in_thread(lambda: wait(job()))

    async def together(self, jobs: Sequence[Job]) -> None:
        futures: List["Future[Any]"] = [in_thread(lambda job=job: wait(job())) for job in jobs]  # type: ignore[misc]
        for future in futures:
            await self.outcome_quietly(future)
        for future in futures:
            future.result()

    async def outcome_quietly(self, future: "Future[Any]") -> None:
        future.exception()


def in_thread(work: Callable[[], T]) -> "Future[T]":
    """Runs a function in a daemon thread of its own, with the caller's context variables."""
    future: "Future[T]" = Future()
    context = contextvars.copy_context()

    def body() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:  # whoever waits for the future raises it
            future.set_exception(error)

    threading.Thread(target=body, name="tidebase", daemon=True).start()
    return future


def _plain(value: Any) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TidebaseError(
            "A function given to the blocking client is asynchronous.",
            code="async_function",
            hint="Use tidebase.aio.AsyncTidebase, or give a plain function.",
        )
    return value


def takes(fn: Callable[..., Any], default: int) -> int:
    """How many arguments a function requires or, at most two, accepts by position.

    Args:
        default: for functions that do not tell.
    """
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return default
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return 2
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)


def wants_argument(fn: Callable[..., Any]) -> bool:
    """Whether a function cannot be called without an argument."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return False
    by_position = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return bool(by_position) and by_position[0].default is inspect.Parameter.empty


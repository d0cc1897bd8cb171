"""Steps and fanouts as a workflow calls them."""
# Generated from ../steps.py by gen_aio.py.

from __future__ import annotations

from typing import Any, Awaitable, Callable, Iterable, List, Optional, Sequence, TypeVar, Union, cast, overload

from ..core.fanout import fanout
from ..core.lease import Lease
from ..core.steps import StepOptions, Steps

T = TypeVar("T")
Item = TypeVar("Item")


class StepRunner:
    """The part of a run context that runs steps."""

    def __init__(self, lease: Lease, steps: Steps) -> None:
        self._lease = lease
        self._steps = steps

    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *,
        input: Any = None,
        input_hash: Optional[str] = None,
        each: bool = False,
        retries: int = 0,
        backoff_s: Optional[float] = None,
        timeout_s: Optional[float] = None,
        side_effects: Optional[Sequence[str]] = None,
        idempotency_key: Optional[str] = None,
        replay: Optional[str] = None,
        checkpoint_invariant: Optional[str] = None,
        verified_by: Any = None,
        credentials: Any = None,
    ) -> T: ...

    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., T],
        *,
        input: Any = None,
        input_hash: Optional[str] = None,
        each: bool = False,
        retries: int = 0,
        backoff_s: Optional[float] = None,
        timeout_s: Optional[float] = None,
        side_effects: Optional[Sequence[str]] = None,
        idempotency_key: Optional[str] = None,
        replay: Optional[str] = None,
        checkpoint_invariant: Optional[str] = None,
        verified_by: Any = None,
        credentials: Any = None,
    ) -> T: ...

    async def step(
        self,
        name: str,
        fn: Callable[..., Union[Awaitable[T], T]],
        *,
        input: Any = None,
        input_hash: Optional[str] = None,
        each: bool = False,
        retries: int = 0,
        backoff_s: Optional[float] = None,
        timeout_s: Optional[float] = None,
        side_effects: Optional[Sequence[str]] = None,
        idempotency_key: Optional[str] = None,
        replay: Optional[str] = None,
        checkpoint_invariant: Optional[str] = None,
        verified_by: Any = None,
        credentials: Any = None,
    ) -> T:
        """Does a piece of work once: when the run is resumed, a completed step gives its recorded output without running.

        Two calls with one name in one run are the same step; use ``each`` in loops. A step without side effects (or with
        an ``idempotency_key``) may be repeated if the worker dies in the middle of it. Say so when it may not: with
        ``side_effects`` and no key the server asks a human before it is repeated.

        Args:
            name: its name in the run.
            fn: the work. Gets a ``StepContext`` when its first parameter has no default. What it returns is recorded as
                JSON, and returned as a resumed run would get it: tuples as lists, keys as strings.
            input: any JSON. Recorded and hashed: on replay the step must be called with the same.
            input_hash: stands for the hash of the input, for inputs that are compared in another way.
            each: number the calls of this name, in order: ``llm#1``, ``llm#2``, …
            retries: how often the function is tried again after it raised. An error with ``retryable = False`` is final.
            backoff_s: seconds before the first retry, doubling; 0.5 unless given.
            timeout_s: how long one try may take, in seconds. Then ``step.stop`` stops and the function is cancelled.
            side_effects: what it does to the world, such as ``["email.send"]``. ``["read"]`` counts as none.
            idempotency_key: a key that makes repeating the side effect harmless. The function finds it in its context.
            replay: after an unknown outcome: ``auto`` repeat, ``manual`` ask a human, ``never`` fail.
            checkpoint_invariant: what is true of the world once the step is recorded. For people.
            verified_by: what showed it. For people.
            credentials: which credentials it uses (names, never secrets). For people.

        Returns:
            the function's value, or what was recorded of it.

        Raises:
            StepError: when the function raised and no retry is left; its ``__cause__`` is what was raised.
            InputMismatchError: when the step was recorded with another input.
            ManualReviewError: when a worker died in the middle of it and it may not be repeated blindly.
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        options = StepOptions(
            input=input,
            input_hash=input_hash,
            each=each,
            retries=retries,
            backoff_s=backoff_s,
            timeout_s=timeout_s,
            side_effects=side_effects,
            idempotency_key=idempotency_key,
            replay=replay,
            checkpoint_invariant=checkpoint_invariant,
            verified_by=verified_by,
            credentials=credentials,
        )
        with self._lease.during():
            return cast(T, (await self._steps.run(name, options, fn)))

    @overload
    async def fanout(
        self,
        name: str,
        items: Iterable[Item],
        fn: Callable[..., Awaitable[T]],
        *,
        concurrency: int = 8,
        stop_on_error: bool = False,
        input: Optional[Callable[[Item, int], Any]] = None,
        idempotency_key: Optional[Callable[[Item, int], str]] = None,
        each: bool = False,
        retries: int = 0,
        backoff_s: Optional[float] = None,
        timeout_s: Optional[float] = None,
        side_effects: Optional[Sequence[str]] = None,
        replay: Optional[str] = None,
        checkpoint_invariant: Optional[str] = None,
        verified_by: Any = None,
        credentials: Any = None,
    ) -> List[T]: ...

    @overload
    async def fanout(
        self,
        name: str,
        items: Iterable[Item],
        fn: Callable[..., T],
        *,
        concurrency: int = 8,
        stop_on_error: bool = False,
        input: Optional[Callable[[Item, int], Any]] = None,
        idempotency_key: Optional[Callable[[Item, int], str]] = None,
        each: bool = False,
        retries: int = 0,
        backoff_s: Optional[float] = None,
        timeout_s: Optional[float] = None,
        side_effects: Optional[Sequence[str]] = None,
        replay: Optional[str] = None,
        checkpoint_invariant: Optional[str] = None,
        verified_by: Any = None,
        credentials: Any = None,
    ) -> List[T]: ...

    async def fanout(
        self,
        name: str,
        items: Iterable[Item],
        fn: Callable[..., Union[Awaitable[T], T]],
        *,
        concurrency: int = 8,
        stop_on_error: bool = False,
        input: Optional[Callable[[Item, int], Any]] = None,
        idempotency_key: Optional[Callable[[Item, int], str]] = None,
        each: bool = False,
        retries: int = 0,
        backoff_s: Optional[float] = None,
        timeout_s: Optional[float] = None,
        side_effects: Optional[Sequence[str]] = None,
        replay: Optional[str] = None,
        checkpoint_invariant: Optional[str] = None,
        verified_by: Any = None,
        credentials: Any = None,
    ) -> List[T]:
        """Runs a step for each item, a bounded number at a time. Item 1 is step ``<name>#1``, and so on.

        Items that fail do not stop the others unless ``stop_on_error``; a resumed run repeats only what failed.

        Args:
            name: the name the steps share.
            items: what to work on; an item is its step's input.
            fn: the work of one item; gets the item and, when it takes two arguments, a ``StepContext``.
            concurrency: how many run at a time.
            stop_on_error: start no more items once one has failed. Those that run are waited for.
            input: the recorded and hashed input of an item's step, by item and index.
            idempotency_key: the key of an item's step, by item and index.
            each: number the calls of this fanout, for fanouts in loops.
            retries, backoff_s, timeout_s, side_effects, replay: as for ``step``, for each item.
            checkpoint_invariant, verified_by, credentials: as for ``step``, for each item.

        Returns:
            the outputs, in the order of the items.

        Raises:
            FanoutError: with all results when any item failed.
            RunCancelled, LeaseLostError: when the run is not ours any more.
        """
        options = StepOptions(
            each=each,
            retries=retries,
            backoff_s=backoff_s,
            timeout_s=timeout_s,
            side_effects=side_effects,
            replay=replay,
            checkpoint_invariant=checkpoint_invariant,
            verified_by=verified_by,
            credentials=credentials,
        )
        with self._lease.during():
            return (await fanout(
                    self._lease, self._steps, name, items, fn, options, concurrency, stop_on_error, input, idempotency_key
                )
            )

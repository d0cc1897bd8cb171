"""Fanout: one step per item, a bounded number at a time, results in the order of the items.

When items fail, the others still run to their end (unless `stop_on_error`), so that as much as possible is recorded;
then a FanoutError with all results is raised. A resumed run repeats only what is not recorded.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, Callable, Dict, Iterable, List, Optional

from ..errors import FanoutError, TidebaseError
from ..runtime import takes
from .lease import Lease
from .steps import StepContext, StepOptions, Steps


async def fanout(
    lease: Lease,
    steps: Steps,
    name: str,
    items: Iterable[Any],
    fn: Callable[..., Any],
    options: StepOptions,
    concurrency: int,
    stop_on_error: bool,
    input_of: Optional[Callable[[Any, int], Any]],
    key_of: Optional[Callable[[Any, int], str]],
) -> List[Any]:
    """Runs a step per item; see `RunContext.fanout`."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be a whole number from 1, not {concurrency}")
    base = steps.number(name) if options.each else name
    todo = list(items)
    results: List[Dict[str, Any]] = [{} for _ in todo]
    queue = iter(range(len(todo)))
    lock = threading.Lock()
    stopped = False
    with_step = takes(fn, 1) >= 2

    async def lane() -> None:
        nonlocal stopped
        while True:
            with lock:
                index = next(queue, None)
            if index is None:
                return
            if stopped:
                results[index] = {"error": _not_started(base)}
                continue
            item = todo[index]
            one = replace(
                options,
                each=False,
                input=input_of(item, index) if input_of else item,
                idempotency_key=key_of(item, index) if key_of else None,
            )

            def work(step: StepContext, item: Any = item) -> Any:
                return fn(item, step) if with_step else fn(item)

            try:
                value = await steps.run(f"{base}#{index + 1}", one, work, index)
                results[index] = {"value": value}
            except Exception as error:
                lease.check()
                results[index] = {"error": error}
                stopped = stop_on_error

    await lease.runtime.together([lane] * min(concurrency, len(todo)))
    if any("error" in each for each in results):
        raise FanoutError(base, results)
    return [each["value"] for each in results]


def _not_started(name: str) -> TidebaseError:
    return TidebaseError(
        f'Not started: another item of "{name}" failed first.',
        code="fanout_stopped",
        hint="Begin the run again to run it.",
        retryable=True,
    )

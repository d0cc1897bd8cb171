"""Writes the asyncio client's surface from the blocking one: `python gen_aio.py`, or `--check` to compare only.

What both do stands once, in tidebase/core. The surfaces differ in `async`, `await` and a few names.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "tidebase"
FILES = ["attached.py", "children.py", "client.py", "following.py", "gates.py"] + [
    f"{name}.py" for name in ("project", "queues", "run", "runs", "state", "steps", "streams")
]
#: Modules that have an asyncio twin; whatever else is imported lies one level up.
TWINS = {"attached", "children", "client", "following", "gates", "project", "queues", "run", "runs", "state"}
TWINS |= {"steps", "streams", "runtime"}
NAMES = {
    r"\bRunContext\b": "AsyncRunContext",
    r"^class Tidebase:": "class AsyncTidebase:",
    r"from \.runtime import Threads, drain, wait": "from .runtime import Asyncio, until_told",
    r"from \.\.signals import until_told\n": "",
    r"from \.runtime import (drain, )?wait\n": "",
    r"return drain\((.*)\)": r"return \1",
    r"\bIterator\b": "AsyncIterator",
    r"\bThreads\(\)": "Asyncio()",
    r"A client of one Tidebase server\. Threads may share it\.": "A client of one Tidebase server, for asyncio.",
    r"(?<=TypeVar, )cast$": "Union, cast, overload",
    r"import Any, Callable, Iterable": "import Any, Awaitable, Callable, Iterable",
    r"and the function is left behind": "and the function is cancelled",
    r"beside\n            the caller|beside the caller": "as a task",
}
WAIT = r"(?<![\w.])(?<!def )wait\("


def main() -> None:
    stale = []
    for name in FILES:
        text = asynchronous((SOURCE / name).read_text("utf-8"), name)
        target = SOURCE / "aio" / name
        if "--check" not in sys.argv:
            target.write_text(text, "utf-8")
        elif not target.exists() or target.read_text("utf-8") != text:
            stale.append(str(target.relative_to(SOURCE.parent)))
    if stale:
        sys.exit(f"not as gen_aio.py makes them: {', '.join(stale)}")


def asynchronous(text: str, name: str) -> str:
    """The asyncio form of a source file."""
    text = re.sub(r"from \.(\w+)", lambda found: found.group() if found[1] in TWINS else f"from ..{found[1]}", text)
    for pattern, replacement in NAMES.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    # A function may be a coroutine function; either way its result is what counts.
    lines = r"(?:        [^\n]*\n)*?"
    fn = r"        fn: Callable\[\.\.\., T\],\n"
    text = re.sub(rf"(?m)^    def \w+\(\n{lines}{fn}{lines}    \) -> [^\n]+:\n", overloads, text)
    # A method that waits is a coroutine.
    methods = re.split(r"(?m)^(?=    def |    @|class |def |async def )", text)
    text = "".join(
        re.sub(r"^    def ", "    async def ", each) if re.search(WAIT, each) else each for each in methods
    )
    text = re.sub(WAIT + r"\s*", "(await ", text)
    text = re.sub(r"(?m)^( +(?:return|\w+ =)) \(await ([^\n]*)\)$", r"\1 await \2", text)
    head, _, rest = text.partition('"""\n')
    return f'{head}"""\n# Generated from ../{name} by gen_aio.py.\n{rest}'


def overloads(method: "re.Match[str]") -> str:
    """The types of a method that takes a function: it may give its value or something to await."""
    stub = method.group().replace("    def ", "    async def ").rstrip("\n")
    given = "fn: Callable[..., T]"
    awaitable = stub.replace(given, "fn: Callable[..., Awaitable[T]]")
    either = method.group().replace(given, "fn: Callable[..., Union[Awaitable[T], T]]")
    return f"    @overload\n{awaitable} ...\n\n    @overload\n{stub} ...\n\n{either}"


main()

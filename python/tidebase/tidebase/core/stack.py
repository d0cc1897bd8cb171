"""What is recorded of a failed step: the error's text, where it came from, and what caused it.

    Name: message                 as everywhere (`error_text`)
    Traceback (most recent call last):
      File "flow.py", line 12, in save
    Caused by: Name: message

A frame has a name and a place: no values, and not the line of the program either, which may have some in it. The
messages are the program's own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import traceback
from typing import List, Optional

from ..errors import TidebaseError, error_text

MOST_FRAMES = 20
MOST_LINE_CHARS = 300
MOST_CAUSES = 5
MOST_CHARS = 8_000

# Files of this SDK, and of what it runs the program's functions with.
_OWN = tuple(os.path.dirname(each) + os.sep for each in (os.path.dirname(__file__), asyncio.__file__))
_OWN += (os.path.dirname(concurrent.futures.__file__) + os.sep, threading.__file__)


def error_with_stack(error: BaseException) -> str:
    """The text of an error with its traceback, as it is recorded of a step.

    Returns:
        what ``error_text`` gives; of errors that are not this SDK's, at most 8,000 characters more: the frames of the
        program's own code, and the messages of the causes.
    """
    text = error_text(error)
    # Ours come from inside the SDK and say all there is to say.
    if isinstance(error, TidebaseError):
        return text
    return text + "".join(f"\n{line}" for line in _frames(error) + _causes(error))[:MOST_CHARS]


def _frames(error: BaseException) -> List[str]:
    frames = [
        f'  File "{code.co_filename}", line {line}, in {code.co_name}'[:MOST_LINE_CHARS]
        for code, line in ((frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__))
        if not code.co_filename.startswith(_OWN)
    ]
    return ["Traceback (most recent call last):", *frames[-MOST_FRAMES:]] if frames else []


def _causes(error: BaseException) -> List[str]:
    """The chain of causes, which may be a circle."""
    seen = {id(error)}
    lines: List[str] = []
    cause = _cause(error)
    while cause is not None and id(cause) not in seen and len(lines) < MOST_CAUSES:
        seen.add(id(cause))
        lines.append(f"Caused by: {error_text(cause)}")
        cause = _cause(cause)
    return lines


def _cause(error: BaseException) -> Optional[BaseException]:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)

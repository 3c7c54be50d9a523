"""What Python is told about its own work, as a process starts."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 20_000
"""That may be made before the garbage among them is looked for; Python's own choice is 700."""

TURN_SECONDS = 0.0005
"""That a thread may keep others from the interpreter; Python's own choice is ten times that."""

USUAL_TURN_SECONDS = sys.getswitchinterval()
"""To come back to, also when several had it changed at a time."""


def look_for_garbage_less_often() -> None:
    """What is there now stays, and is not looked through any more: for all of it that takes some
    50 ms, which whoever asks meanwhile waits for. And an answer of 2,000 items, or a page of 10,000
    packages, is not looked through again and again while it is made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


@contextmanager
def short_turns() -> Iterator[None]:
    """For work in threads beside requests, each of which waits for its turn several times."""
    sys.setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(USUAL_TURN_SECONDS)

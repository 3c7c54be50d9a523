"""Settings of the Python interpreter that measurements justify (docs/performance.md)."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 20_000
"""Objects that are created between two garbage collections; Python's default is 700.

An answer of 2,000 items, or a page of 10,000 packages, is then not scanned while it is made.
"""

TURN_SECONDS = 0.0005
"""How long a thread may keep others from the interpreter during an ingest."""

DEFAULT_TURN_SECONDS = sys.getswitchinterval()
"""Restored in the end, also if several ingests had changed it at a time."""


def look_for_garbage_less_often() -> None:
    """Exclude all objects that exist now from garbage collection, and collect less often.

    Scanning the objects of the start takes some 50 ms, in which requests wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


@contextmanager
def short_turns() -> Iterator[None]:
    """Let threads take shorter turns at the interpreter, for work beside requests.

    A request waits for several turns, of 5 ms each by default.
    """
    sys.setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(DEFAULT_TURN_SECONDS)

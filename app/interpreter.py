"""Settings of the Python interpreter that measurements justify (docs/performance.md)."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 20_000
"""Number of new objects after which a garbage collection starts. Python's default is 700. With this
number, no collection interrupts the rendering of a response of 2,000 items.
"""

SWITCH_SECONDS = 0.0005
"""How long a thread may hold the interpreter lock during an ingest, while other threads wait."""

DEFAULT_SWITCH_SECONDS = sys.getswitchinterval()
"""Interval to restore after an ingest. It is read only once, because ingests may overlap."""


def collect_garbage_less_often() -> None:
    """Exclude all existing objects from garbage collection, and collect less often.

    Otherwise requests would wait some 50 ms while the objects created at the start are scanned.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Switch threads more often, so that work in other threads delays requests less.

    A request waits for several switches, of 5 ms each by default.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(DEFAULT_SWITCH_SECONDS)

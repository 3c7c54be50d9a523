"""Work that would keep the event loop, and so all other requests, waiting."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES = 2**18
"""Size of a body that is compressed in a thread. gzip takes about 4 ms for it."""

LARGE_ITEMS = 5_000
"""Number of items that are rendered in a thread. That takes about 4 ms as well."""


async def offloaded_if(
    is_large: bool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """The function's result. It runs in a thread if its work is large: the hand-over takes 0.1 ms,
    as long as most responses do.
    """
    if is_large:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)

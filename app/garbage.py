"""How often Python looks for objects that only refer to each other."""

import gc

YOUNG_OBJECTS = 20_000
"""That may be made before the garbage among them is looked for; Python's own choice is 700."""


def look_for_garbage_less_often() -> None:
    """What is there now stays, and is not looked through any more: for all of it that takes some
    50 ms, which whoever asks meanwhile waits for. And an answer of 2,000 items, or a page of 10,000
    packages, is not looked through again and again while it is made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)

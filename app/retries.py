"""Retries of work that failed with an error that may pass by itself."""

import logging
from collections.abc import Callable

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

log = logging.getLogger(__name__)

ATTEMPTS = 5

FIRST_PAUSE_SECONDS = 1.0
"""Pause before the second attempt. Each further pause is twice as long."""

JITTER_SECONDS = 1.0
"""Maximum random addition to each pause. Processes that fail together retry separately."""

LONGEST_PAUSE_SECONDS = 60.0


def attempts(what: str, may_pass: Callable[[BaseException], bool]) -> AsyncRetrying:
    """Return attempts that repeat a block while it raises an error that may pass.

    The last error is raised after `ATTEMPTS` attempts.
    """

    def log_failure(state: RetryCallState) -> None:
        assert state.outcome
        error = state.outcome.exception()
        log.warning("%s: trying again in %.1f s: %s", what, state.upcoming_sleep, error)

    return AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(
            multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS, jitter=JITTER_SECONDS
        ),
        retry=retry_if_exception(may_pass),
        before_sleep=log_failure,
        reraise=True,
    )

"""Retries after temporary errors."""

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
"""Maximum random addition to each pause, so that processes that fail together retry separately."""

LONGEST_PAUSE_SECONDS = 60.0


def attempts(subject: str, is_temporary: Callable[[BaseException], bool]) -> AsyncRetrying:
    """Return attempts that repeat a block while it raises a temporary error, up to `ATTEMPTS`
    times.

    The last error is raised. `subject` is the beginning of the log lines.
    """

    def log_failure(state: RetryCallState) -> None:
        assert state.outcome
        error = state.outcome.exception()
        log.warning("%s: trying again in %.1f s: %s", subject, state.upcoming_sleep, error)

    return AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(
            multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS, jitter=JITTER_SECONDS
        ),
        retry=retry_if_exception(is_temporary),
        before_sleep=log_failure,
        reraise=True,
    )

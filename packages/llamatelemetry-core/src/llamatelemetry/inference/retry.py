"""When a failed request may be tried again: never after its first token, and never without end.

The waiting and counting are tenacity's. What is ours is which failures pass by themselves, and a
budget over all requests, so that an outage is not made worse by everyone asking three times.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from llamatelemetry.errors import (
    BackendConnectionError,
    ConfigurationError,
    LlamatelemetryError,
    ServerLoadingError,
    StreamInterruptedError,
)

TRANSIENT: Final = (BackendConnectionError, ServerLoadingError, StreamInterruptedError)
"""Failures that may be gone a moment later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, how soon and how much in all.

    Attributes:
        attempts: Most tries of one request, the first included; 1 never tries again.
        first_wait_s: Widest wait before the second try; it doubles with each. The wait itself is
            drawn at random below that ("full jitter").
        longest_wait_s: Where the doubling ends.
        budget: Retries allowed per request, over all requests: each one made adds so many.
        burst: Retries that may be saved up.
    """

    attempts: int = 3
    first_wait_s: float = 0.2
    longest_wait_s: float = 2.0
    budget: float = 0.2
    burst: int = 10

    def __post_init__(self) -> None:
        least = (("attempts", self.attempts, 1), ("burst", self.burst, 0), ("budget", self.budget, 0))
        for name, value, low in least:
            if value < low:
                raise ConfigurationError(f"retry.{name}", value, f"give at least {low}")
        if not 0 < self.first_wait_s <= self.longest_wait_s:
            raise ConfigurationError(
                "retry.first_wait_s", self.first_wait_s, "give more than 0, at most longest_wait_s"
            )


class RetryBudget:
    """Retries that may still be made. Thread-safe.

    Args:
        policy: How it fills.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._left = float(policy.burst)
        self._lock = threading.Lock()

    def request_made(self) -> None:
        """Adds what one request is worth."""
        with self._lock:
            self._left = min(float(self._policy.burst), self._left + self._policy.budget)

    def take(self) -> bool:
        """Takes one retry; False if none is left."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


def retrying(
    policy: RetryPolicy,
    budget: RetryBudget,
    *,
    may_retry: Callable[[LlamatelemetryError], bool],
    on_failure: Callable[[LlamatelemetryError], None],
    sleep: Callable[[float | None], object],
) -> Retrying:
    """A caller that tries again what fails in passing; the last error is raised as it is.

    Args:
        policy: How often and how soon.
        budget: What all requests share.
        may_retry: Has the last word on a transient error, for example because a token has come.
        on_failure: Told of each failed try that another one follows.
        sleep: Waits; may return early.
    """

    def is_worth_it(error: BaseException) -> bool:
        return isinstance(error, TRANSIENT) and may_retry(error)

    def is_over_budget(_state: RetryCallState) -> bool:
        return not budget.take()

    def tell(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        if isinstance(error, LlamatelemetryError):
            on_failure(error)

    def nap(seconds: float) -> None:
        sleep(seconds)

    return Retrying(
        retry=retry_if_exception(is_worth_it),
        # In this order: a try that was the last anyway takes nothing from the budget.
        stop=lambda state: stop_after_attempt(policy.attempts)(state) or is_over_budget(state),
        wait=wait_random_exponential(multiplier=policy.first_wait_s, max=policy.longest_wait_s),
        before_sleep=tell,
        sleep=nap,
        reraise=True,
    )

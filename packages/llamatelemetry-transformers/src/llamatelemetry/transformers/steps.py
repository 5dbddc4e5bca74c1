"""What is seen of one decoding loop, step by step."""

from __future__ import annotations

from typing import Any

from llamatelemetry.transformers.step_clock import StepClock, step_clock


class Steps:
    """What was seen of one decoding loop.

    Attributes:
        config: The generation configuration in force, as ``generate`` prepared it.
        lengths: After each step, how many tokens each sequence had, its prompt included.
        done: After each step, which sequences are complete; kept where there are several.
        latest: The sequences after the latest step.
    """

    __slots__ = ("_clock", "config", "done", "latest", "lengths")

    def __init__(self, config: Any) -> None:
        self.config = config
        self.lengths: list[int] = []
        self.done: list[Any] = []
        self.latest: Any = None
        self._clock: StepClock | None = None

    def made(self, sequences: Any) -> None:
        """Notes that a step was made."""
        if self._clock is None:
            self._clock = step_clock(sequences.device)
        self._clock.mark()
        self.lengths.append(sequences.shape[1])
        self.latest = sequences

    def moments(self) -> list[int]:
        """When each step was made, in monotonic nanoseconds; waits for the device."""
        return [] if self._clock is None else self._clock.read()

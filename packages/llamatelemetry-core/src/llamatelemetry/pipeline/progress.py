"""How far a pipeline is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llamatelemetry.otel.guard import quietly

State = Literal["started", "working", "step", "reused", "finished", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One piece of news.

    Attributes:
        stage: Id of the stage; empty while what the pipeline is given is looked at.
        number: Which stage it is, from 1.
        of: How many there are.
        state: What is new: it began, is at work, made a step, was not run because what it makes is there, is
            done, failed, or was ended from outside, as by Ctrl-C.
        done: How much of it is done, while it is at work; steps, of a step.
        total: Of how much; None where that is not known.
        unit: Of what; ``B`` for bytes.
        loss: Loss of the step.
        message: What else there is to say, in one sentence.
    """

    stage: str
    number: int
    of: int
    state: State
    done: float | None = None
    total: float | None = None
    unit: str = ""
    loss: float | None = None
    message: str = ""


Listener = Callable[[Progress], None]
"""Called in the thread that runs the stage, or hashes for it; it should not keep it."""


@quietly
def tell(listener: Listener, news: Progress) -> None:
    """Tells a listener; what it raises stops nothing."""
    listener(news)

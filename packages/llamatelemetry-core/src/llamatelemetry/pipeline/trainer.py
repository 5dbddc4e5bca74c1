"""Steps of ``transformers.Trainer``, and of trainers that take its callbacks, told to a stage.

The trainer calls the methods by name and asks for no base class, so nothing of transformers is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from llamatelemetry.otel.guard import quietly
from llamatelemetry.pipeline.stage_trace import StageTrace

_FIGURES: Final = ("grad_norm", "epoch")


class TrainerSteps:
    """A callback for ``Trainer(callbacks=[...])``. Made by ``StageTrace.trainer_callback()``.

    Every optimizer step is a step of the stage. Its loss and learning rate are those that the trainer logs
    for it, which are means since it logged last; ``logging_steps=1`` gives each step its own.

    Args:
        stage: The stage that trains.
    """

    def __init__(self, stage: StageTrace) -> None:
        self._stage = stage
        self._clock = stage.clock
        self._waiting: tuple[int, int] | None = None
        self._logged: dict[str, float] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Any other event of a trainer, also one that a later version brings: nothing to do."""
        if name.startswith("on_"):
            return _nothing
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_more: Any) -> None:
        """A step ended. What is logged of it comes later."""
        self._finish()
        self._end(state)

    def on_log(
        self, _args: Any, state: Any, _control: Any, logs: Mapping[str, Any] | None = None, **_more: Any
    ) -> None:
        """What is logged of the step that ended last."""
        self._note(state, logs or {})

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_more: Any) -> None:
        """By now everything is logged of the step before."""
        self._finish()

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_more: Any) -> None:
        """No step follows."""
        self._finish()

    @quietly
    def _end(self, state: Any) -> None:
        self._waiting = int(state.global_step), self._clock.monotonic_ns()

    @quietly
    def _note(self, state: Any, logs: Mapping[str, Any]) -> None:
        # At the end of training a mean over all of it is logged, as train_loss, which is of no step.
        if self._waiting is not None and self._waiting[0] == state.global_step and "loss" in logs:
            known = {name: logs.get(name) for name in ("loss", "learning_rate", *_FIGURES)}
            self._logged = {name: float(value) for name, value in known.items() if value is not None}

    @quietly
    def _finish(self) -> None:
        waiting, self._waiting = self._waiting, None
        logged, self._logged = self._logged, {}
        if waiting is not None:
            number, ended_ns = waiting
            self._stage.step_at(ended_ns, number, **logged)


def _nothing(*_args: Any, **_more: Any) -> None:
    return None

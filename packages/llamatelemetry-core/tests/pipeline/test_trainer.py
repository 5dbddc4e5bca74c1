"""A trainer's callbacks, called as transformers calls them; the real trainer is in that plugin's tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llamatelemetry.clock import ManualClock
from llamatelemetry.pipeline import PipelineTracer

STEP = "llamatelemetry.pipeline.step"


def train(callback, clock, steps, *, logging_steps=1):
    state, nothing = SimpleNamespace(global_step=0), None
    callback.on_init_end(nothing, state, nothing)
    callback.on_train_begin(nothing, state, nothing, model=None)
    for number in range(1, steps + 1):
        callback.on_step_begin(nothing, state, nothing)
        clock.advance(2)
        state.global_step = number
        callback.on_step_end(nothing, state, nothing)
        if number % logging_steps == 0:
            logs = {"loss": 10 / number, "learning_rate": 1e-3, "grad_norm": 0.5, "epoch": 0.1}
            callback.on_log(nothing, state, nothing, logs=logs)
        clock.advance(100)  # Saving and evaluating is no part of a step.
        callback.on_save(nothing, state, nothing)
    callback.on_log(nothing, state, nothing, logs={"train_loss": 3.0, "train_runtime": 1})
    callback.on_train_end(nothing, state, nothing)


def test_every_step_is_told_with_what_was_logged_of_it(spans):
    clock = ManualClock()
    with PipelineTracer("road", clock=clock.clock).stage("finetune") as stage:
        train(stage.trainer_callback(), clock, 3)
    span = spans.named("finetune")
    assert [event.attributes[f"{STEP}.number"] for event in span.events] == [1, 2, 3]
    assert [event.attributes[f"{STEP}.loss"] for event in span.events] == [10.0, 5.0, 10 / 3]
    assert span.events[0].attributes["grad_norm"] == 0.5
    assert span.events[0].timestamp - span.start_time == 2_000_000_000
    assert span.attributes["llamatelemetry.pipeline.loss.last"] == 10 / 3, "not the mean over all of training"


def test_a_step_of_which_nothing_is_logged_is_a_step_all_the_same(spans):
    clock = ManualClock()
    with PipelineTracer("road", clock=clock.clock).stage("finetune") as stage:
        train(stage.trainer_callback(), clock, 4, logging_steps=2)
    losses = [event.attributes.get(f"{STEP}.loss") for event in spans.named("finetune").events]
    assert losses == [None, 5.0, None, 2.5]


def test_events_that_are_not_known_are_nothing_to_do_and_other_names_are_not_there():
    callback = PipelineTracer("road").stage("finetune").trainer_callback()
    assert callback.on_something_new(1, 2, 3, model=None) is None
    with pytest.raises(AttributeError):
        _ = callback.state


def test_a_trainer_whose_state_is_strange_trains_on():
    stage = PipelineTracer("road").stage("finetune")
    with stage:
        callback = stage.trainer_callback()
        callback.on_step_end(None, SimpleNamespace(), None)
        callback.on_log(None, SimpleNamespace(), None, logs={"loss": object()})
        callback.on_train_end(None, None, None)
    assert stage.steps.count == 0

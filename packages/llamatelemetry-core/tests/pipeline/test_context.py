"""What a run is about, and how code inside it finds out."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import context as otel_context

from llamatelemetry.clock import ManualClock
from llamatelemetry.errors import PipelineDefinitionError
from llamatelemetry.pipeline import PipelineContext, current_pipeline
from llamatelemetry.pipeline.context import new_run_id, with_pipeline


def test_ids_of_runs_sort_by_time_and_differ():
    clock = ManualClock()
    first = new_run_id(clock.clock)
    clock.advance(1)
    second, third = new_run_id(clock.clock), new_run_id(clock.clock)
    assert first.startswith("20231114T221320Z-")
    assert first < min(second, third)
    assert second != third


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("run_id", "../elsewhere"),
        ("run_id", ""),
        ("base_model", "two\nlines"),
        ("quantization", ""),
        ("git_commit", "abc"),
        ("parameters", {"path": object()}),
    ],
)
def test_a_field_that_cannot_be_used_is_named(field, value):
    with pytest.raises(PipelineDefinitionError) as caught:
        PipelineContext(**{"name": "road", field: value})
    assert caught.value.field.startswith(field)


def test_a_later_change_of_the_parameters_does_not_reach_in():
    parameters = {"lr": 1, "layers": [1]}
    context = PipelineContext(name="road", parameters=parameters)
    parameters["lr"] = 2
    parameters["layers"].append(2)
    assert context.parameters == {"lr": 1, "layers": [1]}


def test_it_travels_with_opentelemetrys_context_and_into_no_other_thread_by_itself():
    run = PipelineContext(name="road")
    seen = []
    assert current_pipeline() is None
    token = otel_context.attach(with_pipeline(run))
    try:
        assert current_pipeline() is run
        thread = threading.Thread(target=lambda: seen.append(current_pipeline()))
        thread.start()
        thread.join()
    finally:
        otel_context.detach(token)
    assert seen == [None]
    assert current_pipeline() is None


def test_a_commit_that_was_given_stays(tmp_path):
    commit = "a" * 40
    assert PipelineContext(name="road", git_commit=commit).with_commit(tmp_path).git_commit == commit
    assert PipelineContext(name="road").with_commit(tmp_path).git_commit is None

from __future__ import annotations

import dataclasses

import pytest

from llamatelemetry.semconv import legacy, own, profiles, spans
from llamatelemetry.semconv.attributes import task_of
from llamatelemetry.semconv.facts import AttemptFacts, InferenceFacts, PhaseFacts, ServerStartFacts
from llamatelemetry.semconv.measurements import measured_facts

ALL = tuple(profiles.PROFILES)
INFERENCE_ROWS = [*(row for rows in profiles.PROFILES.values() for row in rows), *profiles.ALWAYS]
PHASE_ROWS = [*legacy.LLM_PHASE, *own.PHASE]
OTHER_ROWS = [
    (PHASE_ROWS, PhaseFacts),
    (spans.ATTEMPT_FAILED, AttemptFacts),
    (spans.SERVER_START, ServerStartFacts),
]
DECLARED = {"string": "str", "boolean": "bool", "int": "int", "double": "float", "string[]": "tuple[str, ...]"}


@pytest.mark.parametrize(("rows", "facts"), [(INFERENCE_ROWS, InferenceFacts), *OTHER_ROWS])
def test_a_rows_type_is_its_fields_type(rows, facts):
    declared = {field.name: field.type.removesuffix(" | None") for field in dataclasses.fields(facts)}
    declared = {name: "str" if type_ == "PhaseName" else type_ for name, type_ in declared.items()}
    assert [(row.name, declared[row.field]) for row in rows] == [(row.name, DECLARED[row.type]) for row in rows]


def test_every_fact_of_an_inference_is_emitted_somewhere():
    measured = measured_facts(ALL)
    used = {row.field for row in INFERENCE_ROWS} | {row.field for row in measured}
    used |= {attribute.field for row in measured for attribute in row.instrument.attributes}
    assert used - {""} == {field.name for field in dataclasses.fields(InferenceFacts)}


@pytest.mark.parametrize(("rows", "facts"), OTHER_ROWS)
def test_every_fact_of_a_phase_an_event_and_a_servers_start_is_emitted(rows, facts):
    assert {row.field for row in rows} == {field.name for field in dataclasses.fields(facts)}


def test_a_name_means_the_same_in_every_profile():
    meaning = {}
    for row in INFERENCE_ROWS:
        assert meaning.setdefault(row.name, (row.field, row.type)) == (row.field, row.type)


@pytest.mark.parametrize("profile", ALL)
def test_a_profile_has_each_name_once(profile):
    names = [row.name for row in (*profiles.PROFILES[profile], *profiles.ALWAYS)]
    assert sorted(names) == sorted(set(names))


def test_every_row_says_what_it_means_and_when_it_must_be_there():
    for row in [*INFERENCE_ROWS, *(row for rows, _ in OTHER_ROWS for row in rows)]:
        assert row.brief.endswith("."), row.name
        assert "\n" not in row.brief, row.name
        assert (row.requirement == "conditionally_required") == bool(row.condition), row.name


def test_an_operation_is_of_one_task():
    tasks = {operation: task_of(operation) for operation in ("chat", "text_completion", "embeddings")}
    assert tasks == {"chat": "generation", "text_completion": "generation", "embeddings": "embeddings"}


def test_content_is_opt_in():
    content = {"input_messages", "output_messages", "tool_definitions", "input_text", "output_text"}
    assert {row.field for row in INFERENCE_ROWS if row.requirement == "opt_in"} == content

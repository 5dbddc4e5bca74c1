from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.semconv import profiles
from llamatelemetry.semconv.attributes import task_of
from llamatelemetry.semconv.facts import InferenceFacts
from llamatelemetry.semconv.measurements import (
    measured_facts,
    measurements,
    request_instruments,
    request_metric_attributes,
)

ALL = tuple(profiles.PROFILES)
any_facts = st.from_type(InferenceFacts)
any_profiles = st.lists(st.sampled_from(ALL), min_size=1, unique=True).map(tuple)
CHAT = InferenceFacts(
    operation="chat",
    provider="llamacpp",
    request_model="m",
    response_model="m.gguf",
    server_address="127.0.0.1",
    server_port=8080,
    duration_s=2.0,
    time_to_first_chunk_s=0.2,
    input_tokens=31,
    output_tokens=64,
    cached_tokens=30,
    queue_duration_s=0.0,
    request_id="r",
    tenant="t",
    conversation_id="c",
)
SHARED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "llamacpp",
    "gen_ai.request.model": "m",
    "gen_ai.response.model": "m.gguf",
    "server.address": "127.0.0.1",
    "server.port": 8080,
}


def test_a_request_is_measured_once_on_each_instrument():
    recorded = {
        (name, attributes.get("gen_ai.token.type")): value
        for name, value, attributes in measurements(CHAT, ("gen_ai", "llm"))
    }
    assert recorded == {
        ("gen_ai.client.operation.duration", None): 2.0,
        ("gen_ai.client.operation.time_to_first_chunk", None): 0.2,
        ("gen_ai.client.token.usage", "input"): 31,
        ("gen_ai.client.token.usage", "output"): 64,
        ("llamatelemetry.queue.duration", None): 0.0,
        ("llamatelemetry.requests.finished", None): 1,
    }


def test_the_next_profile_counts_tokens_and_their_distribution():
    recorded = {name: value for name, value, _ in measurements(CHAT, ("gen_ai_next",))}
    assert recorded == {
        "gen_ai.client.inference.duration": 2.0,
        "gen_ai.client.inference.time_to_first_chunk": 0.2,
        "gen_ai.client.inference.operation.input_tokens": 31,
        "gen_ai.client.inference.operation.output_tokens": 64,
        "gen_ai.client.inference.usage.input_tokens": 31,
        "gen_ai.client.inference.usage.output_tokens": 64,
        "gen_ai.client.inference.usage.cache_read.input_tokens": 30,
        "llamatelemetry.queue.duration": 0.0,
        "llamatelemetry.requests.finished": 1,
    }


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("gen_ai", {"gen_ai.client.operation.duration": 2.0, "gen_ai.client.token.usage": 31}),
        (
            "gen_ai_next",
            {"gen_ai.client.embeddings.duration": 2.0, "gen_ai.client.embeddings.operation.input_tokens": 31},
        ),
    ],
)
def test_embeddings_have_no_tokens_to_generate_and_in_the_next_profile_names_of_their_own(profile, expected):
    facts = dataclasses.replace(CHAT, operation="embeddings", output_tokens=0, consumer_wait_s=0.0)
    recorded = {name: value for name, value, _ in measurements(facts, (profile,))}
    assert recorded == expected | {"llamatelemetry.queue.duration": 0.0, "llamatelemetry.requests.finished": 1}


def test_ended_requests_are_counted_by_reason_and_phase():
    facts = dataclasses.replace(CHAT, finish_reason="cancelled", last_phase="decode", error_type="E")
    (counted,) = [row for row in measurements(facts, ("gen_ai",)) if row.name == "llamatelemetry.requests.finished"]
    assert (counted.value, counted.attributes) == (
        1,
        SHARED | {"llamatelemetry.request.finish_reason": "cancelled", "llamatelemetry.request.phase": "decode"},
    )


def test_profiles_without_metrics_of_their_own_lose_no_figure():
    assert measured_facts(("llm", "openinference")) == measured_facts(("gen_ai",))


def test_server_side_figures_are_recorded_when_the_facts_have_them():
    owned = dataclasses.replace(
        CHAT,
        server_request_duration_s=1.9,
        server_time_to_first_token_s=0.1,
        server_time_per_output_token_s=0.03,
    )
    recorded = {name: value for name, value, _ in measurements(owned, ("gen_ai",)) if ".server." in name}
    assert recorded == {
        "gen_ai.server.request.duration": 1.9,
        "gen_ai.server.time_to_first_token": 0.1,
        "gen_ai.server.time_per_output_token": 0.03,
    }


def test_a_failure_is_named_where_the_conventions_name_it():
    failed = dataclasses.replace(CHAT, error_type="500")
    named = {name for name, _, attributes in measurements(failed, ("gen_ai",)) if "error.type" in attributes}
    assert named == {"gen_ai.client.operation.duration"}


def test_a_requests_figures_carry_no_id():
    assert request_metric_attributes(CHAT) == SHARED
    for _, _, attributes in measurements(CHAT, ("gen_ai",)):
        assert attributes.items() - {("gen_ai.token.type", "input"), ("gen_ai.token.type", "output")} == SHARED.items()


@given(any_facts, any_profiles)
def test_measurements_are_of_known_facts_and_carry_only_what_the_table_allows(facts, chosen):
    known = {instrument.name: instrument for instrument in request_instruments(chosen)}
    found = measurements(facts, chosen)
    rows = measured_facts(chosen, task_of(facts.operation))
    assert len(found) == sum(not row.field or getattr(facts, row.field) is not None for row in rows)
    for name, value, attributes in found:
        allowed = {row.name: row for row in known[name].attributes}
        assert value is not None
        assert attributes.keys() <= allowed.keys()
        assert {row.name for row in allowed.values() if row.requirement == "required"} <= attributes.keys()
        assert None not in attributes.values()

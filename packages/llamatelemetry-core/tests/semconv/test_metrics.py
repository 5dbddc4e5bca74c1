from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from llamatelemetry.semconv import metrics, profiles
from llamatelemetry.semconv.catalogue import instruments
from llamatelemetry.semconv.facts import InferenceFacts
from llamatelemetry.semconv.metrics import (
    measured_facts,
    measurements,
    model_metric_attributes,
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


@pytest.mark.parametrize(
    ("buckets", "exact"),
    [
        (
            metrics.DURATION_BUCKETS,
            (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
        ),
        (
            metrics.TOKEN_BUCKETS,
            (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864),
        ),
        (
            metrics.FIRST_TOKEN_BUCKETS,
            (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
        ),
        (metrics.PER_TOKEN_BUCKETS, (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)),
    ],
)
def test_the_buckets_are_those_of_the_conventions_and_ascend(buckets, exact):
    assert buckets == exact
    assert all(low < high for low, high in pairwise(buckets))


@pytest.mark.parametrize(
    ("name", "unit", "buckets"),
    [
        ("gen_ai.client.operation.duration", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.client.operation.time_to_first_chunk", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.client.token.usage", "{token}", metrics.TOKEN_BUCKETS),
        ("gen_ai.client.inference.duration", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.client.inference.time_to_first_chunk", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.server.request.duration", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.server.time_to_first_token", "s", metrics.FIRST_TOKEN_BUCKETS),
        ("gen_ai.server.time_per_output_token", "s", metrics.PER_TOKEN_BUCKETS),
        ("llamatelemetry.queue.duration", "s", metrics.FIRST_TOKEN_BUCKETS),
    ],
)
def test_a_histogram_has_the_unit_and_buckets_of_the_design(name, unit, buckets):
    instrument = instruments()[name]
    assert (instrument.kind, instrument.unit, instrument.buckets) == ("histogram", unit, buckets)


def test_the_names_are_those_of_the_opentelemetry_package():
    released = {value for name, value in vars(gen_ai_metrics).items() if name.isupper() and isinstance(value, str)}
    used = {instrument.name for instrument in request_instruments(("gen_ai",))}
    assert {name for name in used if name.startswith("gen_ai.")} <= released


def test_only_histograms_have_buckets():
    assert all((row.kind == "histogram") == bool(row.buckets) for row in instruments().values())


def test_no_figure_carries_an_attribute_of_unbounded_cardinality():
    bounded = {row.name for row in (*metrics.REQUEST_ATTRIBUTES, metrics.gen_ai.ERROR_TYPE)}
    bounded |= {"gen_ai.token.type", "gen_ai.token.modality"}
    for instrument in instruments().values():
        assert {row.name for row in instrument.attributes} <= bounded


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
    }


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


def test_a_models_figures_carry_what_is_known_of_it():
    assert model_metric_attributes(provider="echo", model="m") == {
        "gen_ai.provider.name": "echo",
        "gen_ai.request.model": "m",
    }
    assert model_metric_attributes(provider="llamacpp", model="m", server_address="127.0.0.1", server_port=1) == {
        "gen_ai.provider.name": "llamacpp",
        "gen_ai.request.model": "m",
        "server.address": "127.0.0.1",
        "server.port": 1,
    }


@given(any_facts, any_profiles)
def test_measurements_are_of_known_facts_and_carry_only_what_the_table_allows(facts, chosen):
    known = {instrument.name: instrument for instrument in request_instruments(chosen)}
    found = measurements(facts, chosen)
    assert len(found) == sum(getattr(facts, row.field) is not None for row in measured_facts(chosen))
    for name, value, attributes in found:
        allowed = {row.name: row for row in known[name].attributes}
        assert value is not None
        assert attributes.keys() <= allowed.keys()
        assert {row.name for row in allowed.values() if row.requirement == "required"} <= attributes.keys()
        assert None not in attributes.values()

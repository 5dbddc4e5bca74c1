from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry import config
from llamatelemetry.semconv import profiles
from llamatelemetry.semconv.attributes import task_of
from llamatelemetry.semconv.facts import AttemptFacts, InferenceFacts, PhaseFacts, ServerStartFacts
from llamatelemetry.semconv.profiles import (
    attempt_attributes,
    attributes_for,
    inference_rows,
    phase_attributes,
    server_start_attributes,
    start_attributes,
)

PYTHON_TYPES = {"string": str, "boolean": bool, "int": int, "double": float, "string[]": tuple}
any_facts = st.from_type(InferenceFacts)
any_profiles = st.lists(st.sampled_from(tuple(profiles.PROFILES)), min_size=1, unique=True).map(tuple)
CHAT = InferenceFacts(operation="chat", provider="llamacpp", request_model="m", request_id="r")


@given(any_facts, any_profiles)
def test_every_value_has_its_rows_type_and_none_is_never_emitted(facts, chosen):
    rows = {row.name: row for row in inference_rows(chosen, task_of(facts.operation))}
    for name, value in attributes_for(facts, chosen).items():
        assert type(value) is PYTHON_TYPES[rows[name].type]


@given(any_facts, any_profiles)
def test_a_known_fact_is_emitted_under_every_name_it_has(facts, chosen):
    emitted = attributes_for(facts, chosen)
    for row in inference_rows(chosen):
        value = getattr(facts, row.field)
        if row.task not in {None, task_of(facts.operation)}:
            continue
        if value is None or (row.only_true and not value):
            assert row.name not in emitted
        else:
            assert emitted[row.name] == value


@given(any_facts, any_profiles)
def test_what_samplers_see_is_part_of_the_whole(facts, chosen):
    assert start_attributes(facts, chosen).items() <= attributes_for(facts, chosen).items()


@given(any_facts, any_profiles)
def test_profiles_together_emit_what_they_emit_apart(facts, chosen):
    apart = {}
    for profile in chosen:
        alone = attributes_for(facts, (profile,))
        assert {name: alone[name] for name in apart.keys() & alone.keys()} == {
            name: apart[name] for name in apart.keys() & alone.keys()
        }
        apart |= alone
    assert attributes_for(facts, chosen) == apart


def test_streaming_is_said_only_when_true_but_the_legacy_key_says_both():
    for stream in (True, False):
        emitted = attributes_for(dataclasses.replace(CHAT, stream=stream), ("gen_ai", "llm"))
        assert emitted.get("gen_ai.request.stream") is (True if stream else None)
        assert emitted["llm.stream"] is stream


def test_a_whole_number_under_a_double_is_sent_as_a_double():
    emitted = attributes_for(dataclasses.replace(CHAT, temperature=0), ("gen_ai",))
    assert type(emitted["gen_ai.request.temperature"]) is float


def test_older_backends_find_the_provider_as_the_system():
    emitted = attributes_for(CHAT, ("gen_ai",))
    assert emitted["gen_ai.system"] == emitted["gen_ai.provider.name"] == "llamacpp"
    assert "gen_ai.system" not in attributes_for(CHAT, ("gen_ai_next",))


def test_our_own_and_general_names_come_with_every_profile():
    facts = dataclasses.replace(CHAT, server_address="127.0.0.1", server_port=8080, error_type="TimeoutError")
    for profile in profiles.PROFILES:
        expected = {"llamatelemetry.request.id": "r", "server.address": "127.0.0.1", "error.type": "TimeoutError"}
        assert expected.items() <= attributes_for(facts, (profile,)).items()


def test_a_call_gives_a_dict_of_its_own():
    attributes_for(CHAT, ("gen_ai",))["changed"] = True
    assert "changed" not in attributes_for(CHAT, ("gen_ai",))


def test_a_phase_carries_compute_time_and_what_is_left():
    facts = PhaseFacts(name="prefill", prefill_duration_s=0.2, backend_wait_s=0.05)
    ours = {"llamatelemetry.prefill.duration": 0.2, "llamatelemetry.backend.wait": 0.05}
    assert phase_attributes(facts, ("gen_ai",)) == ours
    assert phase_attributes(facts, ("gen_ai", "llm")) == {"llm.phase": "prefill", **ours}


def test_what_is_only_of_an_answer_is_not_said_of_embeddings():
    facts = dataclasses.replace(
        CHAT, operation="embeddings", embedding_dimensions=384, max_tokens=4, finish_reasons=("stop",), output_tokens=0
    )
    emitted = attributes_for(facts, tuple(profiles.PROFILES))
    assert emitted["gen_ai.embeddings.dimension.count"] == 384
    assert emitted["embedding.model_name"] == "m"
    absent = {"gen_ai.request.max_tokens", "gen_ai.response.finish_reasons", "gen_ai.usage.output_tokens"}
    assert not (absent | {"llm.model_name", "llm.output.tokens"}) & emitted.keys()
    assert "gen_ai.embeddings.dimension.count" not in attributes_for(
        dataclasses.replace(facts, operation="chat"), tuple(profiles.PROFILES)
    )


def test_a_failed_try_has_its_number_and_reason():
    assert attempt_attributes(AttemptFacts(number=2, error_type="503")) == {
        "llamatelemetry.attempt.number": 2,
        "error.type": "503",
    }


def test_a_servers_start_is_described_by_what_is_known_of_it():
    facts = ServerStartFacts(runtime="xllamacpp", pid=42, slots=2, server_address="127.0.0.1", server_port=8080)
    assert server_start_attributes(facts) == {
        "llamatelemetry.server.runtime": "xllamacpp",
        "llamatelemetry.server.slots": 2,
        "process.pid": 42,
        "server.address": "127.0.0.1",
        "server.port": 8080,
    }


def test_settings_and_tables_know_the_same_profiles():
    assert set(get_args(config.Profile)) == set(profiles.PROFILES) == set(get_args(profiles.Profile))


@pytest.mark.parametrize("module", ["llamatelemetry", "llamatelemetry.semconv", "llamatelemetry.semconv.facts"])
def test_opentelemetry_is_imported_only_when_tables_are_used(module):
    program = f"import sys, {module}; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_tables_do_not_import_the_sdk():
    program = "import sys, llamatelemetry.semconv.catalogue; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

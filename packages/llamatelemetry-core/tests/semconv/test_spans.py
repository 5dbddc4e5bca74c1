from __future__ import annotations

from typing import get_args

from opentelemetry.semconv._incubating.attributes import process_attributes

from llamatelemetry.semconv import spans
from llamatelemetry.semconv.facts import PhaseName


def test_a_span_is_named_by_operation_and_model():
    assert spans.span_name("chat", "SmolLM2-135M-Instruct") == "chat SmolLM2-135M-Instruct"


def test_without_a_model_a_span_is_named_by_its_operation():
    assert spans.span_name("chat", "") == "chat"


def test_the_phases_are_listed_in_the_order_of_a_request():
    assert get_args(PhaseName) == spans.PHASES


def test_embeddings_have_no_tokens_to_decode():
    assert spans.EMBEDDINGS_PHASES == ("queue", "prefill")


def test_the_process_is_named_as_opentelemetry_names_it():
    assert process_attributes.PROCESS_PID in {row.name for row in spans.SERVER_START}

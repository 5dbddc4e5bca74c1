from __future__ import annotations

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes

from llamatelemetry.semconv import gen_ai, legacy, openinference

CONSTANTS = {
    value
    for module in (gen_ai_attributes, error_attributes, server_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


def test_the_names_are_those_of_the_opentelemetry_package():
    names = {row.name for row in (*gen_ai.GEN_AI, *gen_ai.GENERAL)}
    assert names <= CONSTANTS


def test_the_profile_has_the_names_of_the_design():
    assert {row.name.removeprefix("gen_ai.") for row in gen_ai.GEN_AI} == {
        *("operation.name", "provider.name", "system", "conversation.id", "output.type"),
        "embeddings.dimension.count",
        *(f"request.{name}" for name in ("model", "max_tokens", "temperature", "top_p", "top_k", "seed")),
        *(
            f"request.{name}"
            for name in ("stop_sequences", "frequency_penalty", "presence_penalty", "stream", "choice.count")
        ),
        *(f"response.{name}" for name in ("id", "model", "finish_reasons", "time_to_first_chunk")),
        *(f"usage.{name}" for name in ("input_tokens", "output_tokens")),
        *("usage.cache_read.input_tokens", "usage.reasoning.output_tokens"),
        *("input.messages", "output.messages", "tool.definitions"),
    }


def test_the_next_profile_drops_the_deprecated_system():
    assert {row.name for row in gen_ai.GEN_AI} - {row.name for row in gen_ai.GEN_AI_NEXT} == {"gen_ai.system"}
    assert set(gen_ai.GEN_AI_NEXT) <= set(gen_ai.GEN_AI)


def test_embeddings_carry_what_their_own_convention_lists_and_nothing_else():
    assert {row.name for row in gen_ai.GEN_AI_NEXT if row.task != "generation"} == {
        *("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model"),
        *("gen_ai.embeddings.dimension.count", "gen_ai.usage.input_tokens"),
    }


def test_samplers_see_what_the_conventions_ask_them_to_see():
    at_start = {row.name for row in (*gen_ai.GEN_AI, *gen_ai.GENERAL) if row.at_start}
    assert at_start == {
        *("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"),
        *("server.address", "server.port"),
    }


def test_the_legacy_profile_has_the_keys_of_the_design():
    assert {row.name for row in (*legacy.LLM, *legacy.LLM_PHASE)} == {
        *("llm.system", "llm.model", "llm.request.type", "llm.stream", "llm.input.tokens", "llm.output.tokens"),
        *("llm.tokens.total", "llm.tokens_per_sec", "llm.request.duration_ms", "llm.finish_reason", "llm.phase"),
        *("llm.quantization", "llm.gguf.sha256", "llm.error"),
    }


def test_openinference_names_the_model_of_embeddings_apart_and_no_system():
    embeddings = {row.name for row in openinference.OPENINFERENCE if row.task != "generation"}
    assert embeddings == {
        *("openinference.span.kind", "embedding.model_name", "input.value"),
        *("llm.token_count.prompt", "llm.token_count.total"),
    }


def test_the_openinference_profile_fills_the_list_columns():
    names = {row.name for row in openinference.OPENINFERENCE}
    columns = {"openinference.span.kind", "llm.model_name", "input.value", "output.value"}
    assert columns | {f"llm.token_count.{part}" for part in ("prompt", "completion", "total")} <= names

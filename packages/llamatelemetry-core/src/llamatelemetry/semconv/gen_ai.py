"""Profiles ``gen_ai`` and ``gen_ai_next``: OpenTelemetry's names for generative AI, and general ones.

``gen_ai`` is release 1.41 of open-telemetry/semantic-conventions, the last that carries them, plus
the older ``gen_ai.system`` that backends still key on. ``gen_ai_next`` is the unreleased main branch
of open-telemetry/semantic-conventions-genai. What its docs/gen-ai/non-normative/migration.md lists
between the two touches an inference span in two places: ``gen_ai.usage.cache_creation.input_tokens``
is renamed, which no local runtime reports, and ``gen_ai.request.top_k`` turns from double to int,
which we send as int in both, being what users of 1.41 send. The metrics differ more: see
:mod:`llamatelemetry.semconv.metrics`.

Embeddings are spans of their own in both, with few of an answer's attributes: rows say which task they
are for.

One name has nothing to say here: ``gen_ai.system_instructions`` is for those that are given apart from
the messages. ``gen_ai.request.choice.count`` is never the engine's, whose requests have one answer each;
instrumented libraries are asked for several at once.

Names come from opentelemetry-semantic-conventions. The few that its oldest supported version, 0.59b0,
does not have yet are written out.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.semconv.attributes import error_attributes, server_attributes

from llamatelemetry.semconv.attributes import IF_FAILED, Attribute

OPERATION_NAME: Final = Attribute(
    names.GEN_AI_OPERATION_NAME,
    "string",
    "operation",
    "What was asked of the model: chat, text_completion or embeddings.",
    requirement="required",
    at_start=True,
)
PROVIDER_NAME: Final = Attribute(
    names.GEN_AI_PROVIDER_NAME,
    "string",
    "provider",
    "The runtime that answered, for example llamacpp.",
    requirement="required",
    at_start=True,
)
REQUEST_MODEL: Final = Attribute(
    names.GEN_AI_REQUEST_MODEL,
    "string",
    "request_model",
    "Model that was asked for.",
    requirement="conditionally_required",
    condition="if known",
    at_start=True,
)
RESPONSE_MODEL: Final = Attribute(
    names.GEN_AI_RESPONSE_MODEL, "string", "response_model", "Model that answered, as the backend names it."
)
SERVER_ADDRESS: Final = Attribute(
    server_attributes.SERVER_ADDRESS, "string", "server_address", "Host of the model server.", at_start=True
)
SERVER_PORT: Final = Attribute(
    server_attributes.SERVER_PORT,
    "int",
    "server_port",
    "Port of the model server.",
    requirement="conditionally_required",
    condition="if server.address is set",
    at_start=True,
)
ERROR_TYPE: Final = Attribute(
    error_attributes.ERROR_TYPE,
    "string",
    "error_type",
    "What went wrong: exception class or HTTP status code.",
    requirement="conditionally_required",
    condition=IF_FAILED,
)
TOKEN_TYPE: Final = Attribute(
    names.GEN_AI_TOKEN_TYPE, "string", "", "Which tokens were counted: input or output.", requirement="required"
)
TOKEN_MODALITY: Final = Attribute(
    "gen_ai.token.modality",
    "string",
    "",
    "Modality of the counted tokens: unknown, as no local runtime breaks usage down.",
    requirement="required",
)

GENERAL: Final = (SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE)
"""Stable general names, emitted with any profile."""

GEN_AI_NEXT: Final = (
    OPERATION_NAME,
    PROVIDER_NAME,
    REQUEST_MODEL,
    Attribute(
        names.GEN_AI_REQUEST_MAX_TOKENS,
        "int",
        "max_tokens",
        "Most tokens the answer may have.",
        unit="{token}",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_REQUEST_TEMPERATURE,
        "double",
        "temperature",
        "Sampling temperature; 0 is greedy.",
        task="generation",
    ),
    Attribute(names.GEN_AI_REQUEST_TOP_P, "double", "top_p", "Nucleus sampling mass.", task="generation"),
    Attribute(
        names.GEN_AI_REQUEST_TOP_K,
        "int",
        "top_k",
        "Candidates kept for the next token.",
        requirement="conditionally_required",
        condition="if the request gives it",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_REQUEST_SEED,
        "int",
        "seed",
        "Seed that makes sampling repeatable.",
        requirement="conditionally_required",
        condition="if the request gives it",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_REQUEST_STOP_SEQUENCES,
        "string[]",
        "stop_sequences",
        "Strings that end the answer.",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_REQUEST_FREQUENCY_PENALTY,
        "double",
        "frequency_penalty",
        "Penalty on frequent tokens.",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_REQUEST_PRESENCE_PENALTY,
        "double",
        "presence_penalty",
        "Penalty on tokens seen before.",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_REQUEST_CHOICE_COUNT,
        "int",
        "choices",
        "Answers asked for; tokens are those of all of them.",
        requirement="conditionally_required",
        condition="if it is not 1",
        task="generation",
    ),
    Attribute(
        "gen_ai.request.stream",
        "boolean",
        "stream",
        "The caller took the answer token by token.",
        requirement="conditionally_required",
        condition="if it is true",
        only_true=True,
        task="generation",
    ),
    Attribute(
        names.GEN_AI_EMBEDDINGS_DIMENSION_COUNT,
        "int",
        "embedding_dimensions",
        "Numbers in one vector.",
        task="embeddings",
    ),
    Attribute(
        names.GEN_AI_CONVERSATION_ID,
        "string",
        "conversation_id",
        "Conversation that the request belongs to.",
        requirement="conditionally_required",
        condition="if the request gives it",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_OUTPUT_TYPE,
        "string",
        "output_type",
        "Kind of content asked for: text or json.",
        requirement="conditionally_required",
        condition="if the request gives a format",
        task="generation",
    ),
    Attribute(names.GEN_AI_RESPONSE_ID, "string", "response_id", "The backend's id of the answer.", task="generation"),
    RESPONSE_MODEL,
    Attribute(
        names.GEN_AI_RESPONSE_FINISH_REASONS,
        "string[]",
        "finish_reasons",
        "Why each answer ended, in order: stop, length, tool_calls, content_filter, cancelled or error.",
        task="generation",
    ),
    Attribute(
        "gen_ai.response.time_to_first_chunk",
        "double",
        "time_to_first_chunk_s",
        "Submission to first chunk of a streamed answer.",
        unit="s",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_USAGE_INPUT_TOKENS,
        "int",
        "input_tokens",
        "Prompt tokens, cached ones included.",
        unit="{token}",
    ),
    Attribute(
        names.GEN_AI_USAGE_OUTPUT_TOKENS,
        "int",
        "output_tokens",
        "Generated tokens, reasoning included.",
        unit="{token}",
        task="generation",
    ),
    Attribute(
        "gen_ai.usage.cache_read.input_tokens",
        "int",
        "cached_tokens",
        "Prompt tokens served from the backend's cache.",
        unit="{token}",
        task="generation",
    ),
    Attribute(
        "gen_ai.usage.reasoning.output_tokens",
        "int",
        "reasoning_tokens",
        "Generated tokens that were reasoning.",
        unit="{token}",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_INPUT_MESSAGES,
        "string",
        "input_messages",
        "Messages given to the model, as JSON.",
        requirement="opt_in",
        task="generation",
    ),
    Attribute(
        names.GEN_AI_OUTPUT_MESSAGES,
        "string",
        "output_messages",
        "Messages the model answered, as JSON.",
        requirement="opt_in",
        task="generation",
    ),
    Attribute(
        "gen_ai.tool.definitions",
        "string",
        "tool_definitions",
        "Tools offered to the model, as JSON.",
        requirement="opt_in",
        task="generation",
    ),
)
"""Profile ``gen_ai_next``."""

GEN_AI: Final = (
    *GEN_AI_NEXT,
    Attribute(
        names.GEN_AI_SYSTEM,
        "string",
        "provider",
        "Older name of gen_ai.provider.name, with the same value.",
        requirement="required",
    ),
)
"""Profile ``gen_ai``."""

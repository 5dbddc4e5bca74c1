"""Profile ``openinference``: what fills the list columns of Phoenix and its relatives.

Names: openinference.semconv.trace of Arize-ai/openinference.
"""

from __future__ import annotations

from typing import Final

from llamatelemetry.semconv.attributes import Attribute

OPENINFERENCE: Final = (
    Attribute(
        "openinference.span.kind",
        "string",
        "openinference_span_kind",
        "OpenInference's kind of span: LLM or EMBEDDING.",
        requirement="required",
    ),
    Attribute(
        "llm.system", "string", "provider", "The runtime that answered.", requirement="required", task="generation"
    ),
    Attribute(
        "llm.model_name",
        "string",
        "request_model",
        "Model that was asked for.",
        requirement="required",
        task="generation",
    ),
    Attribute(
        "embedding.model_name",
        "string",
        "request_model",
        "Model that was asked for.",
        requirement="required",
        task="embeddings",
    ),
    Attribute("llm.token_count.prompt", "int", "input_tokens", "Prompt tokens, cached ones included.", unit="{token}"),
    Attribute(
        "llm.token_count.completion", "int", "output_tokens", "Generated tokens.", unit="{token}", task="generation"
    ),
    Attribute("llm.token_count.total", "int", "total_tokens", "Prompt and generated tokens.", unit="{token}"),
    Attribute(
        "llm.token_count.prompt_details.cache_read",
        "int",
        "cached_tokens",
        "Prompt tokens served from the backend's cache.",
        unit="{token}",
        task="generation",
    ),
    Attribute(
        "llm.token_count.completion_details.reasoning",
        "int",
        "reasoning_tokens",
        "Generated tokens that were reasoning.",
        unit="{token}",
        task="generation",
    ),
    Attribute("input.value", "string", "input_text", "The prompt.", requirement="opt_in"),
    Attribute("output.value", "string", "output_text", "The answer.", requirement="opt_in", task="generation"),
)
"""Profile ``openinference``."""

"""Profile ``llm``: the keys of earlier releases, for dashboards that still read them."""

from __future__ import annotations

from typing import Final

from llamatelemetry.semconv.attributes import IF_FAILED, Attribute

LLM: Final = (
    Attribute("llm.system", "string", "provider", "The runtime that answered.", requirement="required"),
    Attribute("llm.model", "string", "request_model", "Model that was asked for.", requirement="required"),
    Attribute(
        "llm.request.type", "string", "operation", "chat, text_completion or embeddings.", requirement="required"
    ),
    Attribute("llm.stream", "boolean", "stream", "The caller took the answer token by token.", task="generation"),
    Attribute("llm.input.tokens", "int", "input_tokens", "Prompt tokens, cached ones included.", unit="{token}"),
    Attribute("llm.output.tokens", "int", "output_tokens", "Generated tokens.", unit="{token}", task="generation"),
    Attribute("llm.tokens.total", "int", "total_tokens", "Prompt and generated tokens.", unit="{token}"),
    Attribute(
        "llm.tokens_per_sec", "double", "tokens_per_second", "Decoding speed.", unit="{token}/s", task="generation"
    ),
    Attribute("llm.request.duration_ms", "double", "duration_ms", "Submission to end.", unit="ms"),
    Attribute("llm.finish_reason", "string", "finish_reason", "Why generation ended."),
    Attribute("llm.quantization", "string", "model_quantization", "Quantization of the weights, for example Q4_1."),
    Attribute("llm.gguf.sha256", "string", "model_sha256", "Digest of the model file."),
    Attribute(
        "llm.error",
        "string",
        "error_message",
        "What went wrong, in words.",
        requirement="conditionally_required",
        condition=IF_FAILED,
    ),
)
"""Profile ``llm``, on the inference span."""

LLM_PHASE: Final = (Attribute("llm.phase", "string", "name", "queue, prefill or decode.", requirement="required"),)
"""Profile ``llm``, on phase spans."""

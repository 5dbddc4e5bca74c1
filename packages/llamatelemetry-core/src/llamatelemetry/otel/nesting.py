"""How instrumentations of several makers tell each other that an inference has its span already.

They agree on context keys, which opentelemetry-util-genai sets and looks for. It takes nobody's word
but an object of its own, so where it is loaded such an object is what we leave for it.
"""

from __future__ import annotations

import sys
from typing import Final

from opentelemetry.context import Context, get_value

OUTER_INFERENCE_KEY: Final = "opentelemetry.genai.client.inference.context"
"""Context key of an open inference span."""

OUTER_EMBEDDING_KEY: Final = "opentelemetry.genai.client.embedding.context"
"""Context key of an open embedding span."""

_UTIL_GENAI: Final = "opentelemetry.util.genai.invocation"
_KEYS: Final = {OUTER_INFERENCE_KEY: "InferenceData", OUTER_EMBEDDING_KEY: "EmbeddingData"}


def inside_inference(context: Context | None = None) -> bool:
    """Whether this thread works for an inference that has its span already, ours or somebody else's.

    Args:
        context: Where to look; the current one when None.
    """
    return any(get_value(key, context) is not None for key in _KEYS)


def mark_inside(context: Context) -> Context:
    """The context, for work that is part of an inference which has its span."""
    # Looked up and not imported: who uses it has imported it.
    util_genai = sys.modules.get(_UTIL_GENAI)
    marks: dict[str, object] = dict.fromkeys(_KEYS, True)
    if util_genai is not None:
        marks |= {key: data() for key, kind in _KEYS.items() if (data := getattr(util_genai, kind, None)) is not None}
    return Context({**context, **marks})

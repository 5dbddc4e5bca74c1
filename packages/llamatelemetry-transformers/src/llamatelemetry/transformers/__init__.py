"""Hugging Face models for llamatelemetry: backend, instrumentor, and what a checkpoint's files say of its sizes.

Importing this package imports nothing else: every public name is loaded on first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.transformers.backend import TransformersBackend as TransformersBackend
    from llamatelemetry.transformers.checkpoint import Checkpoint as Checkpoint
    from llamatelemetry.transformers.checkpoint import read_checkpoint as read_checkpoint
    from llamatelemetry.transformers.instrumentor import TransformersInstrumentor as TransformersInstrumentor
    from llamatelemetry.transformers.shape import read_shape as read_shape
else:
    _HOMES = {
        "Checkpoint": "checkpoint",
        "TransformersBackend": "backend",
        "TransformersInstrumentor": "instrumentor",
        "read_checkpoint": "checkpoint",
        "read_shape": "shape",
    }

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})

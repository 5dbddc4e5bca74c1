"""llama.cpp for llamatelemetry: server, client, backend, GGUF reader.

Importing this package imports nothing else: every public name is loaded on first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.llama.backend import LlamaCppBackend as LlamaCppBackend
    from llamatelemetry.llama.client import LlamaClient as LlamaClient
    from llamatelemetry.llama.gguf import GgufFile as GgufFile
    from llamatelemetry.llama.gguf import read_gguf as read_gguf
    from llamatelemetry.llama.instrument_llama_cpp import LlamaCppPythonInstrumentor as LlamaCppPythonInstrumentor
    from llamatelemetry.llama.instrument_xllamacpp import XllamacppInstrumentor as XllamacppInstrumentor
    from llamatelemetry.llama.metrics import LlamaServerMetrics as LlamaServerMetrics
    from llamatelemetry.llama.model_files import demo_model as demo_model
    from llamatelemetry.llama.runtime import Runtime as Runtime
    from llamatelemetry.llama.runtime import resolve_runtime as resolve_runtime
    from llamatelemetry.llama.server import LlamaServer as LlamaServer
else:
    _HOMES = {
        "GgufFile": "gguf",
        "LlamaClient": "client",
        "LlamaCppBackend": "backend",
        "LlamaCppPythonInstrumentor": "instrument_llama_cpp",
        "LlamaServer": "server",
        "LlamaServerMetrics": "metrics",
        "Runtime": "runtime",
        "XllamacppInstrumentor": "instrument_xllamacpp",
        "demo_model": "model_files",
        "read_gguf": "gguf",
        "resolve_runtime": "runtime",
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

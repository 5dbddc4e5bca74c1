"""The stage ``benchmark`` of pipelines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llamatelemetry.bench.load import DEFAULT_PROMPTS, Load
from llamatelemetry.bench.report import measure
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.pipeline.parameters import signature_of
from llamatelemetry.pipeline.stage import Port, StageContext
from llamatelemetry.plugins import load_plugins

__all__ = ["BenchmarkStage"]


class BenchmarkStage:
    """Runs a model on prompts and reports how fast it answers. Its requests are spans within the stage's.

    Args:
        backend: Name of the backend that runs it. It is given the model as ``model``.
        options: What the backend is given besides, for example ``{"threads": 1}``.
        prompts: What is sent; eight that come with this when not given.
        rounds: How often each is sent.
        concurrency: Requests in flight at once, at most.
        max_tokens: Tokens to generate for each.
        warmup: Requests before those that count.
        chat: Whether prompts are sent as chat messages, or as they are.

    Raises:
        InvalidValueError: An argument cannot be used.
    """

    name = "benchmark"
    version = "1"
    inputs: tuple[Port, ...] = (Port(name="model", kind="gguf", help="The model to run."),)
    outputs: tuple[Port, ...] = (Port(name="report", kind="report", help="JSON: times, speeds, energy."),)

    def __init__(
        self,
        backend: str = "llamacpp",
        *,
        options: Mapping[str, Any] | None = None,
        prompts: Sequence[str] | None = None,
        rounds: int = 1,
        concurrency: int = 1,
        max_tokens: int = 32,
        warmup: int = 1,
        chat: bool = True,
    ) -> None:
        self._load = Load(
            prompts=DEFAULT_PROMPTS if prompts is None else prompts,
            rounds=rounds,
            concurrency=concurrency,
            max_tokens=max_tokens,
            warmup=warmup,
            chat=chat,
        )
        self.parameters: Mapping[str, Any] = {
            "backend": backend,
            "options": dict(options or {}),
            "prompts": list(self._load.prompts),
            "rounds": rounds,
            "concurrency": concurrency,
            "max_tokens": max_tokens,
            "warmup": warmup,
            "chat": chat,
        }

    @property
    def tools(self) -> Mapping[str, str]:
        """What runs it, and where: the speed of one machine says nothing of another."""
        plugins = load_plugins()
        brought = self.parameters["backend"] in plugins.backends
        owner = plugins.backends.get(self.parameters["backend"]).plugin if brought else ""
        backend = {report.distribution: report.version for report in plugins.reports if report.name == owner}
        return {
            "llamatelemetry-core": version("llamatelemetry-core"),
            "machine": f"{platform.node() or 'unnamed'}, {platform.machine()}, {os.cpu_count()} CPUs",
            **backend,
        }

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Measures; requests are its progress.

        Raises:
            UnknownNameError: No plugin brings the backend.
            ConfigurationError: It has no such option.
            LlamatelemetryError: It did not start, or a request failed.
        """
        model = context.inputs["model"]
        options = {**self._slots(), **self.parameters["options"]}
        with InferenceEngine(self.parameters["backend"], model=model.path, **options) as engine:
            report = measure(
                engine, self._load, on_progress=lambda done, total: context.progress(done, total, "requests")
            )
        made = context.folder / "benchmark.json"
        made.write_text(json.dumps({"model_digest": model.manifest.digest, **report.to_data()}, indent=2) + "\n")
        return {"report": made}

    def _slots(self) -> Mapping[str, int]:
        """As many slots as requests in flight, where a backend can be told: in more, each would have less context."""
        taken = signature_of(load_plugins().resolve_backend(self.parameters["backend"]))
        return {"slots": self._load.concurrency} if "slots" in taken else {}

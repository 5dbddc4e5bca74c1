"""What this distribution adds to llamatelemetry. Imported whenever plugins are listed: names only."""

from __future__ import annotations

from llamatelemetry.plugins import Registry, hookimpl


@hookimpl
def register_backends(registry: Registry) -> None:
    """The llama.cpp backend."""
    registry.add("llamacpp", "llamatelemetry.llama.backend:LlamaCppBackend", summary="Any GGUF model, by llama.cpp.")


@hookimpl
def register_commands(group: Registry) -> None:
    """The verbs that run a model."""
    group.add("demo", "llamatelemetry.llama.cli:demo", summary="Ask a small real model and show the trace.")
    group.add("run", "llamatelemetry.llama.cli:run", summary="Ask a model and show the trace.")


@hookimpl
def register_pipeline_stages(registry: Registry) -> None:
    """The stage that needs a server to start."""
    registry.add("deploy", "llamatelemetry.deployment.stage:DeployStage", summary="Puts a GGUF model behind a server.")


@hookimpl
def register_checks(registry: Registry) -> None:
    """What ``doctor`` looks at."""
    registry.add("llamacpp", "llamatelemetry.llama.checks:checks")


@hookimpl
def register_model_readers(registry: Registry) -> None:
    """The format of model files."""
    registry.add("gguf", "llamatelemetry.llama.shape:read_shape")

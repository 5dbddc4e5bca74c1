"""The names of ``import llamatelemetry as lt``: all there, all typed, none by accident."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import llamatelemetry

PUBLIC = {
    "AsyncInferenceStream",
    "Deployment",
    "EngineStats",
    "InferenceEngine",
    "InferenceRequest",
    "InferenceResult",
    "InferenceStream",
    "LlamatelemetryError",
    "ModelInfo",
    "Pipeline",
    "PipelineContext",
    "PipelineTracer",
    "RetryPolicy",
    "SamplingParams",
    "SchedulerConfig",
    "Settings",
    "Stage",
    "deploy",
    "flush",
    "gpu_section",
    "init",
    "instrument_llamacpp",
    "instrument_transformers",
    "shutdown",
}


def names_for_type_checkers() -> dict[str, str]:
    """Public names to the modules that the ``TYPE_CHECKING`` block imports them from."""
    tree = ast.parse(Path(llamatelemetry.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_the_public_names_are_these():
    assert set(names_for_type_checkers()) == PUBLIC
    assert set(dir(llamatelemetry)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_resolves_to_what_type_checkers_see(name):
    home = importlib.import_module(names_for_type_checkers()[name])

    assert getattr(llamatelemetry, name) is getattr(home, name)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_says_what_it_is(name):
    assert inspect.getdoc(getattr(llamatelemetry, name))

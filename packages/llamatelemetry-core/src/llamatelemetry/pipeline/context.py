"""What one run of a pipeline is about, and where code inside it finds that out.

The context travels in OpenTelemetry's own, beside the current span, so it goes wherever a trace goes.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from llamatelemetry.artifacts import checks
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import InvalidManifestError, PipelineDefinitionError
from llamatelemetry.otel.redaction import current_redactor
from llamatelemetry.pipeline.git import commit_of
from llamatelemetry.semconv.pipeline import PipelineFacts

_RUN_ID: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEY: Final = otel_context.create_key("llamatelemetry.pipeline")
_TEXTS: Final = ("base_model", "adapter", "dataset", "quantization", "artifact")


def new_run_id(clock: Clock = SYSTEM_CLOCK) -> str:
    """An id that sorts by time and that nothing else has: ``20261126T154500Z-9f31c2``."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock.time_ns() // 10**9))
    return f"{moment}-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineContext:
    """What one run of a pipeline is about. What is not known is None.

    Attributes:
        name: The pipeline's name.
        run_id: The run: letters, digits, dots, dashes and underscores.
        base_model: The model it starts from.
        adapter: The adapter it trains or merges.
        dataset: What it learns from.
        quantization: Quantization that it is to make, for example ``Q4_K_M``.
        artifact: What it is to make.
        git_commit: Commit of the code, 40 or 64 hexadecimal digits.
        parameters: What the run was told, as JSON: text, numbers, booleans, None, lists, objects.
    """

    name: str
    run_id: str = field(default_factory=new_run_id)
    base_model: str | None = None
    adapter: str | None = None
    dataset: str | None = None
    quantization: str | None = None
    artifact: str | None = None
    git_commit: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            PipelineDefinitionError: A field cannot be used.
        """
        if not isinstance(self.run_id, str) or not _RUN_ID.fullmatch(self.run_id):
            fix = "use letters, digits, dots, dashes and underscores, 100 at most"
            raise PipelineDefinitionError("run_id", self.run_id, fix)
        try:
            checks.text("name", self.name)
            for name in _TEXTS:
                if getattr(self, name) is not None:
                    checks.text(name, getattr(self, name))
            checks.git_commit("git_commit", self.git_commit or "")
            # Copied through JSON, so that nobody's later change reaches in.
            object.__setattr__(self, "parameters", checks.copied_object("parameters", self.parameters))
        except InvalidManifestError as error:
            raise PipelineDefinitionError(error.field, error.value, error.fix) from None

    def with_commit(self, folder: Path | None = None) -> PipelineContext:
        """The same, with the commit that a folder is at where none was given.

        Args:
            folder: In a working tree of git; the current folder where None.
        """
        return self if self.git_commit is not None else replace(self, git_commit=commit_of(folder or Path.cwd()))

    def facts(self, *, stages: int | None = None, reused: int | None = None) -> PipelineFacts:
        """The facts that the tables of names are keyed on."""
        return PipelineFacts(
            run_id=self.run_id,
            name=self.name,
            base_model=self.base_model,
            adapter=self.adapter,
            dataset=self.dataset,
            quantization=self.quantization,
            artifact=self.artifact,
            git_commit=self.git_commit,
            parameters_json=parameters_text(self.parameters) if self.parameters else None,
            stages=stages,
            reused=reused,
        )


def current_pipeline(context: Context | None = None) -> PipelineContext | None:
    """The run that this code is part of; None outside of any.

    Args:
        context: Where to look; OpenTelemetry's current context when None.
    """
    found = otel_context.get_value(_KEY, context)
    return found if isinstance(found, PipelineContext) else None


def with_pipeline(run: PipelineContext, context: Context | None = None) -> Context:
    """An OpenTelemetry context in which :func:`current_pipeline` is this run."""
    return otel_context.set_value(_KEY, run, context)


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Parameters as JSON, for a span: without their secrets, and what JSON does not have as text."""
    redactor = current_redactor()
    clean = redactor.value("parameters", dict(parameters))
    return json.dumps(clean, default=lambda value: redactor.text(str(value)))

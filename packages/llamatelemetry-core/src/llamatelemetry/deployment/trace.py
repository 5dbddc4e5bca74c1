"""The spans of a deployment. A stage of a pipeline has one already, and its deployment speaks on that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceFlags

from llamatelemetry.artifacts.lineage import ModelLineage, Standing
from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.otel.guard import quietly
from llamatelemetry.pipeline.failure import error_type_of, ids_of, record_failure
from llamatelemetry.semconv.deployment import (
    DEPLOY_SPAN,
    DeployFacts,
    DeployStepFacts,
    StepName,
    deploy_attributes,
    deploy_step_attributes,
)
from llamatelemetry.semconv.own import MODEL_MANIFEST, MODEL_RUN_ID

_SCOPE: Final = "llamatelemetry"


class DeployTrace:
    """The span of one deployment.

    Attributes:
        step: What is being done, or was done last.
    """

    def __init__(self, span: trace.Span, facts: DeployFacts) -> None:
        self.step: StepName | str = "verify"
        self._span = span
        self._facts = facts

    @property
    def trace_id(self) -> str:
        """Its trace, 32 hexadecimal digits; empty if it is not sampled."""
        return ids_of(self._span)[0]

    @quietly
    def tell(self, **known: str | int | None) -> None:
        """Adds facts: fields of :class:`DeployFacts`."""
        self._facts = replace(self._facts, **known)  # type: ignore[arg-type]  # by the fields' names
        if self._span.is_recording():
            self._span.set_attributes(deploy_attributes(self._facts))

    @quietly
    def made_by(self, origin: ArtifactOrigin | ModelLineage, standing: Standing) -> None:
        """Links to the span that made the artifact, if that is known, and says how far it can be believed."""
        if not origin.span_id:
            return
        flags = TraceFlags(TraceFlags.SAMPLED)
        where = SpanContext(int(origin.trace_id, 16), int(origin.span_id, 16), is_remote=True, trace_flags=flags)
        says: dict[str, str] = {MODEL_MANIFEST.name: standing}
        self._span.add_link(where, says | ({MODEL_RUN_ID.name: origin.run_id} if origin.run_id else {}))

    @contextmanager
    def doing(self, step: StepName) -> Iterator[StepSpan]:
        """A span of a step, current meanwhile."""
        self.step = step
        facts = DeployStepFacts(name=self._facts.name, step=step)
        tracer = trace.get_tracer(_SCOPE)
        with tracer.start_as_current_span(
            step, attributes=deploy_step_attributes(facts), record_exception=False, set_status_on_exception=False
        ) as span:
            said = StepSpan(span, facts)
            try:
                yield said
            except BaseException as error:
                said.failed(error)
                raise


class StepSpan:
    """The span of one step."""

    def __init__(self, span: trace.Span, facts: DeployStepFacts) -> None:
        self._span = span
        self._facts = facts

    @quietly
    def tell(self, **known: str | int | None) -> None:
        """Adds facts: fields of :class:`DeployStepFacts`."""
        self._facts = replace(self._facts, **known)  # type: ignore[arg-type]  # by the fields' names
        if self._span.is_recording():
            self._span.set_attributes(deploy_step_attributes(self._facts))

    @quietly
    def failed(self, error: BaseException) -> None:
        """Makes it that of a failure."""
        self.tell(error_type=error_type_of(error))
        record_failure(self._span, error, time.time_ns())


@contextmanager
def deploy_trace(name: str, deployment_id: str, *, of_stage: bool = False) -> Iterator[DeployTrace]:
    """The span of a deployment, current meanwhile.

    Args:
        name: The deployment's name.
        deployment_id: Its id.
        of_stage: It is a stage: the current span is its own, and whoever opened it ends it.
    """
    facts = DeployFacts(name=name, deployment_id=deployment_id)
    if of_stage:
        said = DeployTrace(trace.get_current_span(), facts)
        said.tell()
        yield said
        return
    with trace.get_tracer(_SCOPE).start_as_current_span(
        DEPLOY_SPAN, attributes=deploy_attributes(facts), record_exception=False, set_status_on_exception=False
    ) as span:
        said = DeployTrace(span, facts)
        try:
            yield said
        except BaseException as error:
            said.tell(error_type=error_type_of(error))
            record_failure(span, error)
            raise

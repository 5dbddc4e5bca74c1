"""Checks what was emitted against the tables of ``llamatelemetry.semconv``.

For tests, ours and plugin authors': give it the finished spans and the collected metrics, from the
SDK or from an OTLP/JSON file, and it says in plain words what no table allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llamatelemetry.semconv import deployment, gen_ai, gpu, model_load, own, pipeline, profiles, spans, torch_memory
from llamatelemetry.semconv.attributes import IF_FAILED, Attribute, Task, task_of
from llamatelemetry.semconv.catalogue import instruments
from llamatelemetry.semconv.metrics import Instrument
from llamatelemetry.semconv.profiles import Profile
from llamatelemetry.testing.emitted import (
    EmittedEvent,
    EmittedLink,
    EmittedMetric,
    EmittedPoint,
    EmittedSpan,
    MetricShape,
    metrics_from_otlp_json,
    metrics_from_sdk,
    span_from_sdk,
    spans_from_otlp_json,
)

__all__ = [
    "EmittedEvent",
    "EmittedLink",
    "EmittedMetric",
    "EmittedPoint",
    "EmittedSpan",
    "assert_valid_metrics",
    "assert_valid_spans",
    "metrics_from_otlp_json",
    "metrics_from_sdk",
    "span_from_sdk",
    "spans_from_otlp_json",
    "violations_of_metrics",
    "violations_of_spans",
]

RESERVED: Final = ("embedding.", "gen_ai.", "llm.", "llamatelemetry.", "openinference.")
"""Namespaces in which a name that no table has is a mistake."""

_INFERENCE_MARKS: Final = frozenset(
    {gen_ai.OPERATION_NAME.name, "llamatelemetry.request.id", "llm.request.type", "openinference.span.kind"}
)
_SHAPES: Final[Mapping[str, MetricShape]] = {
    "histogram": "histogram",
    "counter": "monotonic_sum",
    "gauge": "gauge",
    "observable_counter": "monotonic_sum",
    "observable_up_down_counter": "sum",
    "observable_gauge": "gauge",
}


def violations_of_spans(emitted: Iterable[Any], profiles_used: Iterable[Profile]) -> list[str]:
    """What the tables do not allow in these spans; empty when all is well.

    Every inference span must come with the phase spans that tile it. A span of any name may carry what
    GPUs did in it. Spans that are none of ours are passed over unless they use our names.

    Args:
        emitted: Finished SDK spans, or :class:`EmittedSpan`.
        profiles_used: Profiles that they were emitted in.
    """
    seen = [span if isinstance(span, EmittedSpan) else span_from_sdk(span) for span in emitted]
    chosen = tuple(profiles_used)
    inference = {
        (span.trace_id, span.span_id): span for span in seen if not _INFERENCE_MARKS.isdisjoint(span.attributes)
    }
    phases: dict[tuple[str, str], list[EmittedSpan]] = {key: [] for key in inference}
    found: list[str] = []
    for span in seen:
        parent = (span.trace_id, span.parent_id or "")
        if (span.trace_id, span.span_id) in inference:
            found += _inference_violations(span, profiles.inference_rows(chosen, _task_of(span)))
            found += _event_violations(span)
            found += _link_violations(span)
        elif span.name in spans.PHASES and parent in inference:
            phases[parent].append(span)
            found += _span_violations(span, profiles.phase_rows(chosen), kinds=("INTERNAL",))
        elif span.name == spans.SERVER_START_SPAN:
            found += _span_violations(span, spans.SERVER_START, kinds=("INTERNAL",))
        elif span.name == model_load.MODEL_LOAD_SPAN:
            rows = (*model_load.MODEL_LOAD, *gpu.GPU_SECTION)
            found += _span_violations(span, rows, kinds=("INTERNAL",))
            found += _gpu_violations(span)
        elif pipeline.RUN_ID.name in span.attributes:
            found += _pipeline_violations(span)
        elif deployment.DEPLOY_NAME.name in span.attributes:
            found += _deploy_violations(span)
        else:
            known = {row.name for row in gpu.GPU_SECTION}
            found += _attribute_violations(_title(span), span.attributes, gpu.GPU_SECTION)
            found += _gpu_violations(span)
            found += [
                f"{_title(span)}: {name} is on a span that no table describes"
                for name in span.attributes
                if name.startswith(RESERVED) and name not in known
            ]
    for key, parent_span in inference.items():
        found += _tiling_violations(parent_span, phases[key])
    return found


def violations_of_metrics(metrics_data: Any) -> list[str]:
    """What the tables do not allow in these metrics; empty when all is well.

    Metrics that are none of ours are passed over unless they use our names.

    Args:
        metrics_data: The SDK's ``MetricsData``, or a sequence of :class:`EmittedMetric`.
    """
    emitted: Sequence[EmittedMetric]
    emitted = metrics_data if isinstance(metrics_data, Sequence) else metrics_from_sdk(metrics_data)
    known = instruments()
    found: list[str] = []
    for metric in emitted:
        instrument = known.get(metric.name)
        if instrument is not None:
            found += _metric_violations(metric, instrument)
        elif metric.name.startswith(RESERVED):
            found.append(f"metric {metric.name}: no table has it")
    return found


def assert_valid_spans(emitted: Iterable[Any], profiles_used: Iterable[Profile]) -> None:
    """Raises an AssertionError that lists every violation of :func:`violations_of_spans`."""
    _assert_none(violations_of_spans(emitted, profiles_used))


def assert_valid_metrics(metrics_data: Any) -> None:
    """Raises an AssertionError that lists every violation of :func:`violations_of_metrics`."""
    _assert_none(violations_of_metrics(metrics_data))


def _assert_none(violations: list[str]) -> None:
    if violations:
        raise AssertionError("telemetry is not what the tables say:\n" + "\n".join(f"- {line}" for line in violations))


def _title(span: EmittedSpan) -> str:
    return f"span {span.name!r} ({span.span_id})"


def _inference_violations(span: EmittedSpan, rows: Sequence[Attribute]) -> list[str]:
    found = _span_violations(span, (*rows, *gpu.GPU, *torch_memory.TORCH_MEMORY), kinds=("CLIENT", "INTERNAL"))
    found += _gpu_violations(span)
    values = {row.field: span.attributes[row.name] for row in rows if row.name in span.attributes}
    failed = sum(event.name == spans.ATTEMPT_FAILED_EVENT for event in span.events)
    if values.get("attempts", failed) not in {failed, failed + 1}:
        found.append(f"{_title(span)}: {failed} tries failed, and {values['attempts']} are said to have been made")
    for row in rows:
        value, other = span.attributes.get(row.name, values.get(row.field)), values.get(row.field)
        if value is not other and value != other:
            found.append(f"{_title(span)}: {row.name} is {value!r}, and another profile says {other!r}")
    if "operation" in values and span.name != spans.span_name(values["operation"], values.get("request_model", "")):
        found.append(f"{_title(span)}: the name is not its operation and model")
    return found


def _task_of(span: EmittedSpan) -> Task:
    if span.attributes.get("openinference.span.kind") == "EMBEDDING":
        return "embeddings"
    operations = (span.attributes.get(name) for name in (gen_ai.OPERATION_NAME.name, "llm.request.type"))
    return task_of(next((operation for operation in operations if operation is not None), ""))


def _gpu_violations(span: EmittedSpan) -> list[str]:
    """Figures of GPUs that cannot be true of the same span."""
    values = {row.field: span.attributes.get(row.name) for row in gpu.GPU_SECTION}
    if all(value is None for value in values.values()):
        return []
    found = []
    ids, names = values["ids"], values["names"]
    if ids is None:
        found.append(f"{_title(span)}: does not say which GPUs its figures are of")
    elif names is not None and len(ids) != len(names):
        found.append(f"{_title(span)}: {len(names)} names are given to {len(ids)} GPUs")
    peak, before, delta = (values[f"memory_{name}_bytes"] for name in ("peak", "before", "delta"))
    least = None if before is None else max(before, before + (delta or 0))
    if peak is not None and least is not None and peak < least:
        found.append(f"{_title(span)}: peak GPU memory is {peak}, and {least} was in use")
    if values["energy_j"] is not None and values["energy_method"] is None:
        found.append(f"{_title(span)}: energy comes without its method")
    return found


def _pipeline_violations(span: EmittedSpan) -> list[str]:
    if pipeline.STAGE_NAME.name not in span.attributes:
        found = _span_violations(span, pipeline.PIPELINE, kinds=("INTERNAL",))
        if span.name != pipeline.pipeline_span_name(span.attributes.get(pipeline.PIPELINE_NAME.name, "")):
            found.append(f"{_title(span)}: the name is not pipeline and the pipeline's")
        return found
    # A stage that deploys says so on its own span.
    deploys = deployment.DEPLOY_STAGE if deployment.DEPLOY_NAME.name in span.attributes else ()
    found = _span_violations(span, (*pipeline.STAGE, *deploys, *gpu.GPU_SECTION), kinds=("INTERNAL",))
    found += _gpu_violations(span)
    if span.name != span.attributes[pipeline.STAGE_NAME.name]:
        found.append(f"{_title(span)}: the name is not the stage's")
    known = {row.name for row in pipeline.STEP}
    before = span.start_ns
    for event in span.events:
        if event.name != pipeline.STEP_EVENT:
            continue
        title = f"{_title(span)}: event {event.name!r}"
        found += _attribute_violations(title, event.attributes, pipeline.STEP)
        found += [
            f"{title}: no table has {name}"
            for name in event.attributes
            if name.startswith(RESERVED) and name not in known
        ]
        if not before <= event.time_ns <= span.end_ns:
            found.append(f"{title}: is not after the one before and within its span")
        before = event.time_ns
    return found


def _deploy_violations(span: EmittedSpan) -> list[str]:
    step = span.attributes.get(deployment.DEPLOY_STEP.name)
    rows = deployment.DEPLOY if step is None else deployment.DEPLOY_STEPS
    found = _span_violations(span, rows, kinds=("INTERNAL",))
    if span.name != (step or deployment.DEPLOY_SPAN):
        found.append(f"{_title(span)}: the name is not {step or deployment.DEPLOY_SPAN}")
    return found


def _event_violations(span: EmittedSpan) -> list[str]:
    found = []
    numbers = []
    before = span.start_ns
    for event in span.events:
        title = f"{_title(span)}: event {event.name!r}"
        rows = spans.EVENTS.get(event.name)
        if rows is None:
            if event.name.startswith(RESERVED):
                found.append(f"{title}: no table has it")
            continue
        known = {row.name for row in rows}
        found += _attribute_violations(title, event.attributes, rows)
        found += [f"{title}: may not carry {name}" for name in event.attributes if name not in known]
        if not before <= event.time_ns <= span.end_ns:
            found.append(f"{title}: is not after the one before and within its span")
        before = event.time_ns
        numbers.append(event.attributes.get("llamatelemetry.attempt.number"))
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"{_title(span)}: its failed tries are numbered {numbers}")
    return found


def _link_violations(span: EmittedSpan) -> list[str]:
    """What cannot be true of the links of an inference: they lead to what made its model, if that was not refuted."""
    found = []
    known = {row.name: row for row in own.MODEL_ORIGIN_LINK}
    ours = [link for link in span.links if not known.keys().isdisjoint(link.attributes)]
    for link in ours:
        title = f"{_title(span)}: link to {link.span_id}"
        found += _attribute_violations(title, link.attributes, own.MODEL_ORIGIN_LINK)
        found += [
            f"{title}: {name} is {value!r}, and the span says {span.attributes.get(name)!r}"
            for name, value in link.attributes.items()
            if name in known and span.attributes.get(name) != value
        ]
        if link.attributes.get(own.MODEL_MANIFEST.name) == "tampered":
            found.append(f"{title}: leads to what was refuted")
    if len(ours) > 1:
        found.append(f"{_title(span)}: has {len(ours)} links to what made its model")
    return found


def _span_violations(span: EmittedSpan, rows: Sequence[Attribute], *, kinds: tuple[str, ...]) -> list[str]:
    title = _title(span)
    found = _attribute_violations(title, span.attributes, rows)
    known = {row.name for row in rows}
    found += [
        f"{title}: no table of these profiles has {name}"
        for name in span.attributes
        if name.startswith(RESERVED) and name not in known
    ]
    for row in rows:
        if row.condition == IF_FAILED and (row.name in span.attributes) != span.failed:
            found.append(f"{title}: {row.name} and status ERROR go together")
    if span.kind not in kinds:
        found.append(f"{title}: kind is {span.kind}, not {' or '.join(kinds)}")
    if span.end_ns < span.start_ns:
        found.append(f"{title}: ends before it starts")
    return found


def _attribute_violations(title: str, attributes: Mapping[str, Any], rows: Sequence[Attribute]) -> list[str]:
    found = []
    for row in rows:
        if row.name not in attributes:
            if row.requirement == "required":
                found.append(f"{title}: {row.name} is required and missing")
            continue
        value = attributes[row.name]
        most = 1 if row.unit == "1" else math.inf  # What has no unit of its own is a share of a whole.
        if not _is_of_type(value, row):
            found.append(f"{title}: {row.name}={value!r} is not of type {row.type}")
        elif row.only_true and value is not True:
            found.append(f"{title}: {row.name} is sent only when true")
        elif row.unit and not (math.isfinite(value) and (row.signed or 0 <= value <= most)):
            found.append(f"{title}: {row.name}={value!r} is no amount of {row.unit}")
    if gen_ai.SERVER_ADDRESS.name in attributes and gen_ai.SERVER_PORT.name not in attributes:
        found.append(f"{title}: {gen_ai.SERVER_ADDRESS.name} comes without {gen_ai.SERVER_PORT.name}")
    return found


def _is_of_type(value: Any, row: Attribute) -> bool:
    match row.type:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "double":
            return isinstance(value, float)
        case "string[]":
            return isinstance(value, tuple | list) and all(isinstance(item, str) for item in value)


def _tiling_violations(parent: EmittedSpan, phases: Sequence[EmittedSpan]) -> list[str]:
    title = _title(parent)
    expected = spans.EMBEDDINGS_PHASES if _task_of(parent) == "embeddings" else spans.PHASES
    ordered = sorted(phases, key=lambda span: spans.PHASES.index(span.name))
    names = tuple(span.name for span in ordered)
    if names[:1] != ("queue",) and own.QUEUE_DURATION.name not in parent.attributes:
        expected = expected[1:]  # Whoever runs it has no queue.
    if names != expected[: len(names)] or not names:
        return [f"{title}: its phases are {', '.join(names) or 'missing'}, not {', '.join(expected)} in order"]
    found = []
    edge, edge_name = parent.start_ns, "the request starts"
    for span in ordered:
        if span.start_ns != edge:
            side = "after" if span.start_ns > edge else "before"
            found.append(f"{title}: {span.name} starts {abs(span.start_ns - edge)} ns {side} {edge_name}")
        edge, edge_name = span.end_ns, f"{span.name} ends"
    if edge > parent.end_ns:
        found.append(f"{title}: {names[-1]} ends {edge - parent.end_ns} ns after the request")
    return found


def _metric_violations(metric: EmittedMetric, instrument: Instrument) -> list[str]:
    title = f"metric {metric.name}"
    found = []
    if metric.unit != instrument.unit:
        found.append(f"{title}: unit is {metric.unit!r}, not {instrument.unit!r}")
    if metric.shape != _SHAPES[instrument.kind]:
        found.append(f"{title}: is a {metric.shape}, not a {_SHAPES[instrument.kind]}")
    if not metric.description:
        found.append(f"{title}: has no description")
    known = {row.name for row in instrument.attributes}
    for point in metric.points:
        found += _attribute_violations(title, point.attributes, instrument.attributes)
        found += [f"{title}: may not carry {name}" for name in point.attributes if name not in known]
        if point.bounds != instrument.buckets:
            found.append(f"{title}: buckets are {point.bounds}, not {instrument.buckets}")
    return found

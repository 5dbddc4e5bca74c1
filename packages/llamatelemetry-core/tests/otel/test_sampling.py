from __future__ import annotations

from typing import get_args

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from llamatelemetry.config import Sampler, Settings
from llamatelemetry.otel.sampling import head_sampler


def keeps(sampler: Sampler, share: float | None = None, parent: Context | None = None, trace_id: int = 1) -> bool:
    decision = head_sampler(Settings(sampler=sampler, sampler_arg=share)).should_sample(parent, trace_id, "span")
    return decision.decision is Decision.RECORD_AND_SAMPLE


def child_of(*, sampled: bool) -> Context:
    return set_span_in_context(NonRecordingSpan(SpanContext(1, 2, True, TraceFlags(sampled))))


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_every_sampler_there_is_a_name_for_can_be_built(sampler: Sampler) -> None:
    assert keeps(sampler) is (sampler not in {"always_off", "parentbased_always_off"})


@pytest.mark.parametrize("sampler", ["parentbased_always_on", "parentbased_ratio", "keep_slow_and_errors"])
def test_parent_based_samplers_follow_the_parent(sampler: Sampler) -> None:
    assert not keeps(sampler, parent=child_of(sampled=False))
    assert keeps(sampler, parent=child_of(sampled=True))


def test_always_on_does_not_ask_the_parent() -> None:
    assert keeps("always_on", parent=child_of(sampled=False))


@pytest.mark.parametrize("sampler", ["ratio", "parentbased_ratio"])
def test_a_ratio_keeps_that_share_of_traces(sampler: Sampler) -> None:
    step = 2**64 // 1000
    assert sum(keeps(sampler, 0.25, trace_id=step * n) for n in range(1000)) == pytest.approx(250, abs=2)

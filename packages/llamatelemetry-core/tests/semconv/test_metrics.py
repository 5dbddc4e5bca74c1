from __future__ import annotations

from itertools import pairwise

import pytest
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from llamatelemetry.semconv import hw, metrics, own, pipeline
from llamatelemetry.semconv.catalogue import instruments
from llamatelemetry.semconv.measurements import request_instruments
from llamatelemetry.semconv.metrics import model_metric_attributes


@pytest.mark.parametrize(
    ("buckets", "exact"),
    [
        (
            metrics.DURATION_BUCKETS,
            (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
        ),
        (
            metrics.TOKEN_BUCKETS,
            (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864),
        ),
        (
            metrics.FIRST_TOKEN_BUCKETS,
            (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
        ),
        (metrics.HANDOVER_BUCKETS, (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)),
        (metrics.PER_TOKEN_BUCKETS, (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)),
    ],
)
def test_the_buckets_are_those_of_the_conventions_and_ascend(buckets, exact):
    assert buckets == exact
    assert all(low < high for low, high in pairwise(buckets))


@pytest.mark.parametrize(
    ("name", "unit", "buckets"),
    [
        ("gen_ai.client.operation.duration", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.client.operation.time_to_first_chunk", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.client.token.usage", "{token}", metrics.TOKEN_BUCKETS),
        ("gen_ai.client.inference.duration", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.client.inference.time_to_first_chunk", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.server.request.duration", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.server.time_to_first_token", "s", metrics.FIRST_TOKEN_BUCKETS),
        ("gen_ai.server.time_per_output_token", "s", metrics.PER_TOKEN_BUCKETS),
        ("gen_ai.client.embeddings.duration", "s", metrics.DURATION_BUCKETS),
        ("gen_ai.client.embeddings.operation.input_tokens", "{token}", metrics.TOKEN_BUCKETS),
        ("llamatelemetry.queue.duration", "s", metrics.FIRST_TOKEN_BUCKETS),
        ("llamatelemetry.scheduler.delay", "s", metrics.HANDOVER_BUCKETS),
        ("llamatelemetry.consumer.wait", "s", metrics.DURATION_BUCKETS),
    ],
)
def test_a_histogram_has_the_unit_and_buckets_of_the_design(name, unit, buckets):
    instrument = instruments()[name]
    assert (instrument.kind, instrument.unit, instrument.buckets) == ("histogram", unit, buckets)


def test_the_names_are_those_of_the_opentelemetry_package():
    released = {value for name, value in vars(gen_ai_metrics).items() if name.isupper() and isinstance(value, str)}
    used = {instrument.name for instrument in request_instruments(("gen_ai",))}
    assert {name for name in used if name.startswith("gen_ai.")} <= released


def test_only_histograms_have_buckets():
    assert all((row.kind == "histogram") == bool(row.buckets) for row in instruments().values())


def test_no_figure_carries_an_attribute_of_unbounded_cardinality():
    bounded = {row.name for row in (*metrics.REQUEST_ATTRIBUTES, metrics.gen_ai.ERROR_TYPE)}
    bounded |= {"gen_ai.token.type", "gen_ai.token.modality"}
    of_few_values = (own.FINISH_REASON, own.LAST_PHASE, own.REJECT_REASON, own.PREFIX_SOURCE, own.KV_ESTIMATED)
    bounded |= {row.name for row in of_few_values}
    bounded |= {
        row.name for instrument in hw.GPU_METRICS for row in instrument.attributes
    }  # As many as there are GPUs.
    bounded |= {
        row.name for instrument in pipeline.PIPELINE_METRICS for row in instrument.attributes
    }  # As many as there are stages in the pipelines that a program has.
    for instrument in instruments().values():
        assert {row.name for row in instrument.attributes} <= bounded


def test_a_models_figures_carry_what_is_known_of_it():
    assert model_metric_attributes(provider="echo", model="m") == {
        "gen_ai.provider.name": "echo",
        "gen_ai.request.model": "m",
    }
    assert model_metric_attributes(provider="llamacpp", model="m", server_address="127.0.0.1", server_port=1) == {
        "gen_ai.provider.name": "llamacpp",
        "gen_ai.request.model": "m",
        "server.address": "127.0.0.1",
        "server.port": 1,
    }

from __future__ import annotations

from llamatelemetry.semconv import deployment, gpu, hw, model_load, pipeline, profiles, server_metrics, torch_memory
from llamatelemetry.semconv.catalogue import ALL_PROFILES, AttributeEntry, InstrumentEntry, catalogue, instruments


def test_the_catalogue_has_every_attribute_that_any_span_can_carry():
    entries = [entry for entry in catalogue() if isinstance(entry, AttributeEntry)]
    for span, rows in (
        ("inference", (*profiles.inference_rows(ALL_PROFILES), *gpu.GPU, *torch_memory.TORCH_MEMORY)),
        ("attempt_failed", profiles.spans.ATTEMPT_FAILED),
        ("phase", profiles.phase_rows(ALL_PROFILES)),
        ("section", gpu.GPU_SECTION),
        ("server_start", profiles.spans.SERVER_START),
        ("pipeline", pipeline.PIPELINE),
        ("stage", (*pipeline.STAGE, *gpu.GPU_SECTION)),
        ("step", pipeline.STEP),
        ("model_load", (*model_load.MODEL_LOAD, *gpu.GPU_SECTION)),
        ("deploy", deployment.DEPLOY),
        ("deploy_step", deployment.DEPLOY_STEPS),
        ("resource", gpu.GPU_RESOURCE),
    ):
        assert {entry.row.name for entry in entries if entry.span == span} == {row.name for row in rows}


def test_the_catalogue_tells_profiles_apart():
    entries = [entry for entry in catalogue() if isinstance(entry, AttributeEntry)]
    assert {entry.profile for entry in entries if entry.row.name == "gen_ai.system"} == {"gen_ai"}
    assert {entry.profile for entry in entries if entry.row.name == "llm.system"} == {"llm", "openinference"}
    assert {entry.profile for entry in entries if entry.row.name == "llamatelemetry.request.id"} == {None}


def test_every_instrument_is_listed_once_with_unit_and_meaning():
    rows = [entry.row for entry in catalogue() if isinstance(entry, InstrumentEntry)]
    assert sorted(row.name for row in rows) == sorted(instruments())
    for row in rows:
        assert row.unit, row.name
        assert row.brief.endswith("."), row.name


def test_an_instrument_of_the_server_says_which_sample_feeds_it():
    sources = {entry.row.name: entry.source for entry in catalogue() if isinstance(entry, InstrumentEntry)}
    assert sources["llamatelemetry.server.decode.tokens"] == "llamacpp:tokens_predicted_total"
    assert {name for name, source in sources.items() if source} == {row.name for row in server_metrics.SERVER}


def test_a_total_of_the_server_is_a_counter():
    for source, row in server_metrics.PROMETHEUS_METRICS.items():
        assert source.endswith("_total") == (row.kind == "observable_counter")


def test_the_metrics_of_gpus_are_emitted_with_any_profile():
    profiles_of = {entry.row.name: entry.profile for entry in catalogue() if isinstance(entry, InstrumentEntry)}
    assert {profiles_of[row.name] for row in hw.GPU_METRICS} == {None}

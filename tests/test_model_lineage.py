"""From an answer to the run that made its model: a real GGUF, a real server, real telemetry files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata
from opentelemetry import trace

import llamatelemetry
from llamatelemetry import InferenceEngine, InferenceRequest, SamplingParams
from llamatelemetry.artifacts.files import create_manifest, manifest_path, write_manifest
from llamatelemetry.artifacts.lineage import Lineage, lineage_of
from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.llama.gguf import read_gguf
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.pipeline import Pipeline, PipelineContext, Port, StageContext
from llamatelemetry.testing.emitted import EmittedSpan
from llamatelemetry.testing.semconv import assert_valid_spans

REQUEST = InferenceRequest(
    messages=[{"role": "user", "content": "Hi"}], max_tokens=2, sampling=SamplingParams(temperature=0)
)


def marked_copy(source: Path, path: Path, lineage: Lineage) -> None:
    """A GGUF with a lineage in its metadata, written by upstream's own package."""
    added = {key: MetadataDetails(gguf.GGUFValueType.STRING, value) for key, value in lineage.metadata().items()}
    copy_with_new_metadata(gguf.GGUFReader(source), gguf.GGUFWriter(path, "llama"), added, [])


@pytest.fixture
def made(telemetry, tmp_path: Path) -> tuple[Path, ArtifactOrigin]:
    """SmolLM2, exported by a span of a pipeline that names itself in the file, with its manifest beside it."""
    telemetry.start()
    path = tmp_path / "tuned.gguf"
    with trace.get_tracer("pipeline").start_as_current_span("export_gguf") as span:
        context = span.get_span_context()
        origin = ArtifactOrigin(
            stage="export_gguf",
            run_id="run-7",
            trace_id=trace.format_trace_id(context.trace_id),
            span_id=trace.format_span_id(context.span_id),
        )
        marked_copy(demo_model(), path, lineage_of(origin))
    write_manifest(create_manifest(path, kind="gguf", origin=origin), path)
    return path, origin


class Export:
    """A stage that copies a GGUF and names itself in it."""

    name, version, tools = "export_gguf", "1", {}
    parameters: Mapping[str, str] = {}
    inputs = (Port(name="model", kind="gguf"),)
    outputs = (Port(name="gguf", kind="gguf"),)

    def run(self, context: StageContext) -> Mapping[str, Path]:
        path = context.folder / "tuned.gguf"
        lineage = lineage_of(context.trace.origin(), context.inputs["model"].manifest.digest)
        marked_copy(context.path("model"), path, lineage)
        return {"gguf": path}


def answer_of(path: Path, telemetry) -> EmittedSpan:
    """The inference span of one answer that the model gave through a server of ours."""
    with InferenceEngine("llamacpp", model=path, slots=1, context_length=256, threads=1) as engine:
        assert engine.generate(REQUEST).output_tokens == 2
    spans = telemetry.spans()
    assert_valid_spans(spans, ("gen_ai", "llm"))
    return next(span for span in reversed(spans) if span.name == "chat tuned")


def test_a_bad_answer_leads_to_the_run_that_made_its_model(made: tuple[Path, ArtifactOrigin], telemetry) -> None:
    path, origin = made
    span = answer_of(path, telemetry)
    (link,) = span.links
    producer = next(each for each in telemetry.spans() if each.span_id == link.span_id)
    assert (producer.name, producer.trace_id) == ("export_gguf", link.trace_id)
    assert (link.trace_id, link.span_id) == (origin.trace_id, origin.span_id)
    assert span.trace_id != link.trace_id
    assert span.attributes["llamatelemetry.model.sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert span.attributes["llamatelemetry.model.manifest"] == "verified"
    assert span.attributes["llamatelemetry.model.run.id"] == "run-7"


def test_without_its_manifest_the_model_still_leads_there_and_that_it_is_not_proved_is_said(
    made: tuple[Path, ArtifactOrigin], telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    path, origin = made
    manifest_path(path).unlink()
    span = answer_of(path, telemetry)
    assert [link.span_id for link in span.links] == [origin.span_id]
    assert span.links[0].attributes["llamatelemetry.model.manifest"] == "missing"
    assert f"the origin of model {path} is missing" in caplog.text


def test_a_model_that_was_tampered_with_answers_and_leads_nowhere(
    made: tuple[Path, ArtifactOrigin], telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = made
    with path.open("r+b") as file:
        file.seek(-100, 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    span = answer_of(path, telemetry)
    assert span.links == ()
    assert span.attributes["llamatelemetry.model.manifest"] == "tampered"
    assert "llamatelemetry.model.run.id" not in span.attributes
    assert span.attributes["llamatelemetry.model.sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "is tampered: it has the SHA-256" in caplog.text
    assert llamatelemetry.flush()


def test_a_model_served_from_a_pipelines_store_leads_to_the_stage_that_made_it(telemetry, tmp_path: Path) -> None:
    telemetry.start()
    given = tmp_path / "base.gguf"
    given.write_bytes(demo_model().read_bytes())
    run = Pipeline([Export()]).run(PipelineContext(name="p"), store=tmp_path / "store", inputs={"model": given})
    artifact = run.artifacts["export_gguf.gguf"]
    (parent,) = artifact.manifest.parents
    assert read_gguf(artifact.path).metadata["llamatelemetry.lineage.parent_digest"] == parent.digest
    span = answer_of(artifact.path, telemetry)
    (link,) = span.links
    stage = next(each for each in telemetry.spans() if each.span_id == link.span_id)
    assert (stage.name, stage.trace_id) == ("export_gguf", link.trace_id)
    assert stage.attributes["llamatelemetry.pipeline.run.id"] == span.attributes["llamatelemetry.model.run.id"]
    assert span.attributes["llamatelemetry.model.manifest"] == "verified"

"""From a base model to an answer, and back: one trace, one chain of manifests, and no byte that may change unseen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from llamatelemetry.artifacts.files import manifest_path
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.cli.app import run
from llamatelemetry.deployment import status
from llamatelemetry.pipeline.definition import read_definition
from llamatelemetry.quantization.variants import read_variant_table
from llamatelemetry.testing.semconv import assert_valid_spans

pytestmark = pytest.mark.timeout(900)  # Two processes load torch, and one trains.

STAGES = ["finetune", "merge_lora", "f16", "q8", "q4", "quality-f16", "quality-q8", "quality-q4", "speed-q4"]
STAGES += ["compare", "deploy"]
MADE = ["finetune.adapter", "merge_lora.checkpoint", "f16.model", "q8.model", "q4.model", "quality-f16.report"]
MADE += ["quality-q8.report", "quality-q4.report", "speed-q4.report", "compare.report", "compare.table"]
MADE += ["deploy.deployment"]


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """A file of which one byte in the middle is another for a while."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    at = path.stat().st_size // 2
    try:
        _flip(path, at)
        yield
    finally:
        _flip(path, at)
        path.chmod(mode)


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def files_of(artifact: Path) -> list[Path]:
    """The file, or those of the folder."""
    return [path for path in sorted(artifact.rglob("*")) if path.is_file()] if artifact.is_dir() else [artifact]


def test_the_whole_road_is_one_trace_with_every_stage_within_the_pipelines_span(road):
    assert road.record["state"] == "succeeded"
    assert [(each["id"], each["state"]) for each in road.record["stages"]] == [(name, "ran") for name in STAGES]
    ours = [span for span in road.spans if span.trace_id == road.record["trace_id"]]
    assert_valid_spans(road.spans, ["gen_ai", "llm"])
    (pipeline,) = [span for span in ours if span.parent_id is None]
    by_id = {span.span_id: span for span in ours}
    assert len(by_id) == len(ours)
    for name in STAGES:
        span = by_id[road.stage(name)["span_id"]]
        assert (span.parent_id, span.attributes["llamatelemetry.pipeline.stage.id"]) == (pipeline.span_id, name)
    assert all(span.parent_id in by_id for span in ours if span is not pipeline)
    # Nothing but the question that was asked afterwards is in another trace.
    assert {span.trace_id for span in road.spans} == {road.record["trace_id"], road.answer.trace_id}


def test_twelve_steps_are_on_the_span_and_the_loss_falls(road):
    trained = road.stage("finetune")
    (span,) = [each for each in road.spans if each.span_id == trained["span_id"]]
    steps = [each for each in span.events if each.name == "llamatelemetry.pipeline.step"]
    assert (trained["steps"], len(steps)) == (12, 12)
    assert trained["loss_last"] < 0.8 * trained["loss_first"]


def test_the_table_has_a_row_for_each_model_and_eight_bits_lose_less_than_four(road):
    parent, q8, q4 = read_variant_table(road.made()["compare.report"]).variants
    assert [parent.name, q8.name, q4.name] == ["f16", "q8", "q4"]
    assert all(each.perplexity is not None for each in (parent, q8, q4))
    assert 0 < q8.divergence.value < q4.divergence.value
    assert q4.size_bytes < q8.size_bytes < parent.size_bytes
    table = road.made()["compare.table"].read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| f16", "| q8", "| q4"]


def test_an_answer_of_the_deployment_links_to_the_stage_that_made_its_model(road):
    (span,) = [each for each in road.spans if each.trace_id == road.answer.trace_id and each.parent_id is None]
    q4 = road.stage("q4")
    assert [(link.trace_id, link.span_id) for link in span.links] == [(q4["trace_id"], q4["span_id"])]
    assert span.attributes["llamatelemetry.model.manifest"] == "verified"
    assert span.attributes["llamatelemetry.model.run.id"] == road.record["run_id"]
    assert road.answer.output_tokens > 0


def test_the_graph_leads_from_the_deployment_back_to_what_was_given(road):
    done = road.run("manifest", "graph", str(road.made()["deploy.deployment"]), "--verify", "--json")
    assert done.returncode == 0, done.stdout
    said = json.loads(done.stdout)
    store, names, digest = ArtifactStore(road.folder / "artifacts"), [], said["root"]
    while parents := store.get(digest).parents:
        names.append(store.get(digest).origin.stage)
        digest = next(each for each in parents if each.role != "base").digest
    assert names == ["deploy", "quantize", "export_gguf", "merge_lora", "finetune"]
    assert store.get(digest).name == "norwood.jsonl"
    assert said["whole"]


def test_a_second_run_runs_nothing_and_the_server_goes_on(road):
    before = status("norwood", home=road.folder / "home").deployment
    done = road.run("pipeline", "run", "example.toml", "--json")
    assert done.returncode == 0, done.stderr
    assert {each["state"] for each in json.loads(done.stdout)["stages"]} == {"reused"}
    assert status("norwood", home=road.folder / "home").deployment == before


@pytest.mark.parametrize("name", MADE)
def test_a_flipped_byte_in_whatever_was_made_is_caught_and_its_file_is_named(road, name, capsys):
    artifact = road.made()[name]
    for path in files_of(artifact):
        with flipped(path):
            assert run(("manifest", "verify", str(artifact))) == 1
        said = " ".join(capsys.readouterr().out.split())
        assert "is not what its manifest says" in said
        assert f"{path.name} has the SHA-256" in said
    assert run(("manifest", "verify", str(artifact))) == 0


@pytest.mark.parametrize("name", ["norwood.jsonl", "SmolLM2-135M-Instruct"])
def test_a_flipped_byte_in_what_is_given_is_caught_and_its_file_is_named(road, name):
    given = road.folder / name
    assert road.run("manifest", "create", name).returncode == 0
    try:
        for path in files_of(given):
            with flipped(path):
                done = road.run("pipeline", "run", "example.toml")
            assert done.returncode == 1
            assert f"{path.name} has the SHA-256" in " ".join(done.stderr.split())
    finally:
        manifest_path(given).unlink()


def test_all_of_a_run_is_held_to_its_manifests_at_once(road, capsys):
    kept = ("pipeline", "show", "--verify", "--store", str(road.folder / "artifacts"), road.record["run_id"], "--json")
    assert run(kept) == 0
    capsys.readouterr()
    made = road.made()
    with ExitStack() as all_of_them:
        for artifact in made.values():
            all_of_them.enter_context(flipped(files_of(artifact)[-1]))
        assert run(kept) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [each.split(": ")[0] for each in problems] == MADE
    assert all(files_of(made[name])[-1].name in each for name, each in zip(MADE, problems, strict=True))


def test_a_flipped_byte_in_a_manifest_is_caught_and_the_manifest_is_named(road, capsys):
    kept = ArtifactStore(road.folder / "artifacts").manifests_folder
    for stage in road.record["stages"]:
        for name, digest in stage["outputs"].items():
            with flipped(kept / f"{digest}.json"):
                assert run(("manifest", "verify", stage["paths"][name])) == 1
            assert digest in capsys.readouterr().err


def test_a_model_with_a_flipped_byte_is_not_deployed(road):
    model = road.made()["q4.model"]
    with flipped(model):
        done = road.run("deploy", str(model), "--name", "norwood")
    assert done.returncode == 1
    assert f"{model.name} has the SHA-256" in done.stderr
    assert "was not touched and serves at" in done.stderr


def test_the_guide_shows_the_stages_that_the_file_has(road):
    guide = (Path(__file__).parents[2] / "docs" / "road.md").read_text()
    drawn = [line.split()[1] for line in guide.splitlines() if line.startswith(("├── ", "└── ")) and "█" in line]
    assert drawn == [stage.id or stage.use for stage in read_definition(road.folder / "example.toml").stages]
    assert drawn == STAGES


def test_the_next_run_names_what_is_damaged_and_makes_it_anew(road):
    table = road.made()["compare.table"]
    whole = table.read_bytes()
    table.chmod(0o644)
    _flip(table, 100)

    done = road.run("pipeline", "run", "example.toml", "--json")

    assert done.returncode == 0, done.stderr
    stages = {each["id"]: each for each in json.loads(done.stdout)["stages"]}
    assert {name: each["state"] for name, each in stages.items()} == {
        name: "ran" if name == "compare" else "reused" for name in STAGES
    }
    assert "comparison.md has the SHA-256" in " ".join(stages["compare"]["damage"])
    assert table.read_bytes() == whole

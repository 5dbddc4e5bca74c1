"""Running, skipping, failing and going on, on real files and real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from llamatelemetry.artifacts.files import create_manifest, write_manifest
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import (
    ArtifactMissingError,
    ArtifactTamperedError,
    PipelineDefinitionError,
    StageFailedError,
    StageInputError,
    StageOutputError,
)
from llamatelemetry.pipeline import Node, Pipeline, PipelineContext, Port
from llamatelemetry.pipeline.outcome import read_record
from llamatelemetry.pipeline.runner import RUNS, WORK
from llamatelemetry.pipeline.work import is_going_on

TEXT = Port(name="text", kind="text")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def line(join):
    """Two stages, the second of which takes what the first makes."""
    return [join("one"), Node(stage=join("two", name="more", inputs=(TEXT,)))]


def text(run, name="more.text"):
    return run.artifacts[name].path.read_text()


def states(run):
    return [stage.state for stage in run.record.stages]


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_each_stage_is_given_what_those_before_it_made(line, store):
    run = Pipeline(line).run("road", store=store)
    assert text(run) == "one text two text"
    assert states(run) == ["ran", "ran"]
    assert run.artifacts["more.text"].manifest.parents[0].digest == run.artifacts["join.text"].manifest.digest
    assert left_in(store / WORK) == []


def test_a_second_run_runs_nothing_and_has_the_same(line, store):
    first = Pipeline(line).run("road", store=store)
    second = Pipeline(line).run("road", store=store)
    assert states(second) == ["reused", "reused"]
    assert second.artifacts == first.artifacts
    assert [node.stage.runs for node in Pipeline(line).nodes] == [1, 1]


def test_a_reused_stage_says_so_and_links_to_the_span_that_made_it(line, store, spans):
    Pipeline(line).run("road", store=store)
    made = {span.name: span.context for span in spans.ended()}
    spans.exporter.clear()
    Pipeline(line).run("road", store=store)
    for name in ("join", "more"):
        span = spans.named(name)
        assert span.attributes["llamatelemetry.pipeline.stage.reused"] is True
        assert [link.context.span_id for link in span.links] == [made[name].span_id]
        assert [link.context.trace_id for link in span.links] == [made[name].trace_id]
    assert spans.named("pipeline road").attributes["llamatelemetry.pipeline.stages.reused"] == 2


def test_a_span_and_a_manifest_lead_to_each_other(line, store, spans):
    run = Pipeline(line).run(PipelineContext(name="road", git_commit="b" * 40), store=store)
    span, manifest = spans.named("more"), run.artifacts["more.text"].manifest
    attributes = span.attributes
    assert manifest.origin.span_id == f"{span.context.span_id:016x}"
    assert (manifest.origin.run_id, manifest.origin.git_commit) == (run.record.run_id, "b" * 40)
    assert attributes["llamatelemetry.pipeline.stage.outputs"] == (f"text={manifest.content_digest}",)
    assert attributes["llamatelemetry.pipeline.stage.inputs"] == (f"text={manifest.parents[0].content_digest}",)
    assert attributes["llamatelemetry.pipeline.stage.key"] == manifest.recipe_digest
    assert attributes["llamatelemetry.pipeline.stage.version"] == "1"
    assert run.record.stages[1].span_id == manifest.origin.span_id
    assert run.record.trace_id == manifest.origin.trace_id


@pytest.mark.parametrize("change", ["parameters", "version", "tools"])
def test_what_decides_the_outcome_decides_what_is_run_again(line, store, change):
    Pipeline(line).run("road", store=store)
    changed = {"parameters": {"word": "three"}, "version": "2", "tools": {"gguf": "1.0"}}[change]
    setattr(line[1].stage, change, changed)
    assert states(Pipeline(line).run("road", store=store)) == ["reused", "ran"]


def test_a_stage_that_makes_the_same_again_lets_those_after_it_be(line, store):
    Pipeline(line).run("road", store=store)
    line[0].version = "2"
    assert states(Pipeline(line).run("road", store=store)) == ["ran", "reused"]


def test_a_flipped_byte_is_found_and_named_and_the_stage_is_run_again(line, store, caplog):
    path = Pipeline(line).run("road", store=store).artifacts["join.text"].path
    path.chmod(0o644)
    path.write_text("One text")
    news = []
    run = Pipeline(line).run("road", store=store, progress=news.append)
    assert states(run) == ["ran", "reused"]
    assert text(run, "join.text") == "one text"
    assert "join.txt" in run.record.stages[0].damage[0] or "text.txt" in run.record.stages[0].damage[0]
    assert "SHA-256" in caplog.text
    assert [each.message for each in news if each.state == "finished"] == list(run.record.stages[0].damage)


def test_a_stage_with_several_outputs_is_reused_only_if_all_are_there(join, store):
    stage = join("x", outputs=(TEXT, Port(name="report", kind="report")))
    first = Pipeline([stage]).run("road", store=store)
    assert states(Pipeline([stage]).run("road", store=store)) == ["reused"]
    path = first.artifacts["join.report"].path
    path.parent.chmod(0o755)
    path.unlink()
    path.parent.rmdir()
    again = Pipeline([stage]).run("road", store=store)
    assert states(again) == ["ran"]
    assert again.artifacts["join.report"].path.exists()


def test_what_was_made_as_another_kind_is_not_taken_for_this_one(join, store):
    Pipeline([join()]).run("road", store=store)
    run = Pipeline([join(outputs=(Port(name="text", kind="dataset"),))]).run("road", store=store)
    assert states(run) == ["ran"]
    assert run.artifacts["join.text"].manifest.kind == "dataset"


def test_what_a_stage_leaves_over_is_gone_before_the_next_one_runs(join, store):
    def leave(context):
        (context.folder / "scratch").write_bytes(b"large")

    seen = []
    look = join(name="look", before=lambda context: seen.extend(left_in(context.folder.parent)))
    Pipeline([join(before=leave), look]).run("road", store=store)
    assert seen == ["look", "look/text.txt"]


def test_stages_of_one_name_have_a_folder_together_that_ends_with_the_run(join, store):
    found = []

    def look(context):
        found.append((context.shared.name, context.shared.parent.parent, context.shared.exists()))
        context.shared.mkdir(exist_ok=True)
        if len(found) == 3:
            raise ValueError("the last")

    names = [("one", "join"), ("two", "other"), ("three", "join")]
    with pytest.raises(StageFailedError, match="the last"):
        Pipeline([Node(stage=join(word, name=name, before=look), id=word) for word, name in names]).run(
            "road", store=store
        )
    assert found == [(".join", store / WORK, False), (".other", store / WORK, False), (".join", store / WORK, True)]
    assert left_in(store / WORK) == []


def test_a_stage_knows_which_of_its_inputs_a_later_one_of_its_name_takes(join, store):
    told = {}

    def node(name, stage, *sources):
        ports = tuple(Port(name=f"text{number}", kind="text") for number in range(len(sources)))
        wires = {port.name: source for port, source in zip(ports, sources, strict=True)}
        made = join(name, name=stage, inputs=ports, before=lambda context: told.update({name: context.taken_again}))
        return Node(stage=made, id=name, inputs=wires)

    nodes = [
        Node(stage=join("one"), id="one"),
        Node(stage=join("two"), id="two"),
        node("a", "compare", "one.text"),
        node("b", "compare", "two.text", "one.text"),
        node("c", "other", "two.text", "one.text"),
        node("d", "compare", "one.text", "a.text"),
    ]
    Pipeline(nodes).run("road", store=store)
    assert told == {"a": {"text0"}, "b": {"text1"}, "c": set(), "d": set()}


def test_a_stage_that_makes_nothing_is_run_every_time(join, store):
    stage = join(outputs=())
    for _ in range(2):
        assert states(Pipeline([stage]).run("road", store=store)) == ["ran"]
    assert stage.runs == 2


def test_a_folder_is_an_artifact_too(join, store):
    def fold(context):
        (context.folder / "text.txt").unlink()
        (context.folder / "text.txt").mkdir()
        (context.folder / "text.txt" / "a.txt").write_text("a")

    run = Pipeline([join(before=fold)]).run("road", store=store)
    assert [file.path for file in run.artifacts["join.text"].manifest.files] == ["a.txt"]


def test_a_failure_is_one_typed_error_and_the_next_run_goes_on_from_there(join, store, spans):
    def fail(_context):
        raise ValueError("no tensor is named lm_head")

    broken = [join("one"), join("two", name="more", inputs=(TEXT,), before=fail)]
    with pytest.raises(StageFailedError, match=r"'more'.*no tensor is named lm_head") as caught:
        Pipeline(broken).run("road", store=store)
    assert isinstance(caught.value.__cause__, ValueError)
    for name in ("more", "pipeline road"):
        assert spans.named(name).attributes["error.type"] == "ValueError"
    record = read_record(store / RUNS, caught.value.run_id)
    assert (record.state, [stage.state for stage in record.stages]) == ("failed", ["ran", "failed"])
    assert record.stages[1].error_type == "ValueError"
    assert left_in(store / WORK) == []

    mended = [join("one"), join("two", name="more", inputs=(TEXT,))]
    run = Pipeline(mended).run("road", store=store)
    assert states(run) == ["reused", "ran"]
    assert text(run) == "one text two text"


def test_ctrl_c_passes_and_leaves_nothing_half_made(join, store, spans):
    def interrupt(_context):
        raise KeyboardInterrupt

    news = []
    context = PipelineContext(name="road", run_id="r")
    with pytest.raises(KeyboardInterrupt):
        Pipeline([join(before=interrupt)]).run(context, store=store, progress=news.append)
    assert news[-1].state == "interrupted"
    assert spans.named("join").attributes["error.type"] == "KeyboardInterrupt"
    assert read_record(store / RUNS, "r").state == "interrupted"
    assert left_in(store / WORK) == []
    assert not (store / "objects").exists()


def wrong_outputs():
    return {
        "nothing": lambda _context: None,
        "a list": lambda context: [context.folder / "text.txt"],
        "another name": lambda context: {"model": context.folder / "text.txt"},
        "one too many": lambda context: {"text": context.folder / "text.txt", "more": context.folder / "more.txt"},
        "no path": lambda context: {"text": str(context.folder / "text.txt")},
        "the folder itself": lambda context: {"text": context.folder},
        "elsewhere": lambda _context: {"text": Path("/etc/hostname")},
        "out of the folder": lambda context: {"text": context.folder / ".." / "text.txt"},
    }


@pytest.mark.parametrize("kind", wrong_outputs())
def test_a_stage_that_does_not_make_what_it_promises_fails_and_nothing_is_kept(join, store, kind):
    stage = join()
    make, wrong = stage.run, wrong_outputs()[kind]
    stage.run = lambda context: make(context) and wrong(context)
    with pytest.raises(StageFailedError) as caught:
        Pipeline([stage]).run("road", store=store)
    assert isinstance(caught.value.__cause__, StageOutputError)
    assert not (store / "objects").exists()


def test_an_output_that_is_not_there_or_is_a_link_fails_the_stage(join, store):
    stage = join()
    stage.run = lambda context: {"text": context.folder / "absent"}
    with pytest.raises(StageFailedError) as caught:
        Pipeline([stage]).run("road", store=store)
    assert isinstance(caught.value.__cause__, ArtifactMissingError)

    def link(context):
        (context.folder / "link").symlink_to("/etc/hostname")
        return {"text": context.folder / "link"}

    stage.run = link
    with pytest.raises(StageFailedError):
        Pipeline([stage]).run("road", store=store)


def test_nothing_is_run_where_an_input_is_missing(join, store):
    stages = [join(name="first"), join(inputs=(Port(name="model", kind="gguf"),))]
    with pytest.raises(StageInputError):
        Pipeline(stages).run("road", store=store)
    assert stages[0].runs == 0
    assert not store.exists()


def test_what_is_given_is_taken_with_its_manifest_or_gets_the_same_one_each_time(join, store, tmp_path):
    given = tmp_path / "given.txt"
    given.write_text("given")
    stage = join("x", inputs=(TEXT,))
    first = Pipeline([stage]).run("road", store=store, inputs={"text": given})
    assert text(first, "join.text") == "given x text"
    parent = first.artifacts["join.text"].manifest.parents[0]
    assert ArtifactStore(store).get(parent.digest).content_digest == parent.content_digest
    assert states(Pipeline([stage]).run("road", store=store, inputs={"text": given})) == ["reused"]

    write_manifest(create_manifest(given, kind="text", name="theirs"), given)
    run = Pipeline([stage]).run("road", store=store, inputs={"text": given})
    assert run.artifacts["inputs.text"].manifest.name == "theirs"
    assert states(run) == ["reused"], "its content is the same"


def test_what_is_given_and_is_not_what_its_manifest_says_is_refused(join, store, tmp_path):
    given = tmp_path / "given.txt"
    given.write_text("given")
    write_manifest(create_manifest(given, kind="text"), given)
    given.write_text("Given")
    stage, news = join(inputs=(TEXT,)), []
    context = PipelineContext(name="road", run_id="r")
    with pytest.raises(ArtifactTamperedError, match=r"given\.txt"):
        Pipeline([stage]).run(context, store=store, inputs={"text": given}, progress=news.append)
    assert stage.runs == 0
    record = read_record(store / RUNS, "r")
    assert (record.state, record.error_type, record.stages) == ("failed", "ArtifactTamperedError", ())
    assert {(each.stage, each.unit) for each in news} == {("", "B")}


def test_what_is_made_while_what_was_given_changes_is_not_kept(join, store, tmp_path):
    given = tmp_path / "given.txt"
    given.write_text("given")
    before = given.stat()

    def meddle(_context):
        given.write_text("Given")
        os.utime(given, ns=(before.st_atime_ns, before.st_mtime_ns))

    first, meddled = join("x", inputs=(TEXT,)), join("y", name="more", inputs=(TEXT,), before=meddle)
    line = [first, Node(stage=meddled, inputs={"text": "inputs.text"})]
    with pytest.raises(StageFailedError, match=r"stage 'more' failed: .*given\.txt has the SHA-256"):
        Pipeline(line).run("road", store=store, inputs={"text": given})

    assert (first.runs, meddled.runs) == (1, 1)
    run = Pipeline(line).run("road", store=store, inputs={"text": given})
    assert (states(run), text(run)) == (["ran", "ran"], "Given y text")


def test_what_is_given_may_be_touched_as_long_as_it_stays_what_it_was(join, store, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "a").write_text("given")
    stage = join("x", inputs=(TEXT,))
    stage.run = lambda context: {"text": _copied(context, folder / "a")}
    assert states(Pipeline([stage]).run("road", store=store, inputs={"text": folder})) == ["ran"]


def _copied(context, path):
    path.write_text(path.read_text())
    made = context.folder / "text.txt"
    made.write_bytes(path.read_bytes())
    return made


def test_what_is_given_as_another_kind_or_for_nothing_is_refused(join, store, tmp_path):
    given = tmp_path / "given.txt"
    given.write_text("given")
    write_manifest(create_manifest(given, kind="report"), given)
    with pytest.raises(PipelineDefinitionError, match="is a report"):
        Pipeline([join(inputs=(TEXT,))]).run("road", store=store, inputs={"text": given})
    with pytest.raises(PipelineDefinitionError, match=r"inputs\.model.*no stage takes it"):
        Pipeline([join()]).run("road", store=store, inputs={"model": given})


def test_two_runs_of_one_id_do_not_go_on_at_once(join, store):
    context = PipelineContext(name="road", run_id="r")

    def again(_context):
        assert is_going_on(store / WORK, "r")
        with pytest.raises(PipelineDefinitionError, match="going on"):
            Pipeline([join()]).run(context, store=store)

    Pipeline([join(before=again)]).run(context, store=store)
    assert not is_going_on(store / WORK, "r")


def test_news_come_in_order_and_a_listener_that_raises_stops_nothing(join, store):
    news = []

    def work(context):
        context.step(loss=0.5)
        context.progress(1, 2, "tensors")

    def listen(each):
        news.append(each)
        raise RuntimeError("no terminal")

    Pipeline([join(before=work), join(name="next")]).run("road", store=store, progress=listen)
    assert [(each.stage, each.state) for each in news if each.unit != "B"] == [
        ("join", "started"),
        ("join", "step"),
        ("join", "working"),
        ("join", "finished"),
        ("next", "started"),
        ("next", "finished"),
    ]
    assert news[1].loss == 0.5
    assert (news[2].done, news[2].total, news[2].unit) == (1, 2, "tensors")
    assert {(each.number, each.of) for each in news} == {(1, 2), (2, 2)}


def test_what_a_stage_cost_is_kept_with_the_run(join, store):
    def compute(context):
        subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
        for loss in (3, 2):
            context.step(loss=loss)

    run = Pipeline([join(before=compute)]).run("road", store=store)
    stage = read_record(store / RUNS, run.record.run_id).stages[0]
    assert stage == run.record.stages[0]
    assert stage.resources is not None
    assert stage.resources.wall_s >= stage.resources.cpu_s > 0
    assert stage.resources.children_cpu_s > 0
    assert (stage.steps, stage.loss_first, stage.loss_last) == (2, 3, 2)


KILLED = """
import os, signal, sys
from pathlib import Path
from llamatelemetry.pipeline import Pipeline, PipelineContext, Port

class Stage:
    version, inputs, tools, parameters = "1", (), {}, {}
    outputs = (Port(name="text", kind="text"),)
    def __init__(self, name): self.name = name
    def run(self, context):
        path = context.folder / "text.txt"
        path.write_text(self.name)
        if self.name == "second" and sys.argv[2] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"text": path}

run = Pipeline([Stage("first"), Stage("second")]).run(PipelineContext(name="road", run_id=sys.argv[1]), store="store")
print([stage.state for stage in run.record.stages])
"""


def test_a_run_that_was_killed_is_gone_on_with_and_what_it_left_is_removed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(dedent(KILLED))
    command = [sys.executable, str(script)]
    died = subprocess.run([*command, "r1", "die"], cwd=tmp_path, check=False)
    assert died.returncode == -signal.SIGKILL
    work = tmp_path / "store" / WORK
    assert left_in(work) != []
    record = json.loads((tmp_path / "store" / RUNS / "r1.json").read_text())
    assert (record["state"], record["stages"][1]["state"]) == ("running", "running")
    assert not is_going_on(work, "r1")
    done = subprocess.run([*command, "r2", "live"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['reused', 'ran']"
    assert left_in(work) == []


TERMINATED = """
import os, signal, sys, threading
from pathlib import Path
from llamatelemetry.pipeline import Pipeline, PipelineContext, Port

class Stage:
    name, version, inputs, tools, parameters = "ends", "1", (), {}, {}
    outputs = (Port(name="text", kind="text"),)
    def run(self, context):
        (context.folder / "text.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(30)

own = sys.argv[1] == "own"
if own:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
try:
    Pipeline([Stage()]).run(PipelineContext(name="road", run_id="r"), store="store")
finally:
    restored = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    print(restored, sorted(os.listdir("store/work")))
"""


def test_sigterm_unwinds_a_run_in_a_program_that_has_no_handler_for_it(tmp_path):
    command = [sys.executable, "-c", TERMINATED]
    done = subprocess.run([*command, "none"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (128 + signal.SIGTERM, "True []")
    record = read_record(tmp_path / "store" / RUNS, "r")
    assert (record.state, record.error_type) == ("interrupted", "SystemExit")
    own = subprocess.run([*command, "own"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert own.returncode == 7


def test_a_loss_that_is_no_number_leaves_a_record_that_any_program_reads(join, store):
    diverges = join(before=lambda context: context.step(loss=float("nan")))
    run = Pipeline([diverges]).run("road", store=store)
    content = (store / RUNS / f"{run.record.run_id}.json").read_text()
    assert "NaN" not in content
    assert (run.record.stages[0].steps, run.record.stages[0].loss_last) == (1, None)


def test_the_store_cannot_be_used_is_one_typed_error(join, tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(Exception, match="cannot be used") as caught:
        Pipeline([join()]).run("road", store=tmp_path / "store")
    assert type(caught.value).__name__ == "ArtifactError"
    assert left_in(tmp_path) == ["store"]


def test_what_does_not_hold_any_more_is_made_again_though_all_of_it_is_there(tmp_path, join):
    class Standing(join):
        ended = ""

        def lapsed(self, outputs):
            assert outputs["text"].path.exists()
            return self.ended

    stage = Standing("a", name="stand")
    for ended, runs in (("", 1), ("", 1), ("its server ended", 2)):
        stage.ended = ended
        news = []
        run = Pipeline([stage]).run("road", store=tmp_path, progress=news.append)
        assert stage.runs == runs
    assert [each.state for each in run.record.stages] == ["ran"]
    assert news[-1].message == "its server ended"
    assert run.record.stages[0].damage == ("its server ended",)

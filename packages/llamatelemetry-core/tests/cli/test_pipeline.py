"""``llamatelemetry pipeline`` with a plugin's stage, as processes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llamatelemetry.deployment.artifact import find_artifact, prove
from llamatelemetry.testing.emitted import spans_from_otlp_json
from llamatelemetry.testing.semconv import assert_valid_spans

PLUGIN = """
from llamatelemetry.plugins import hookimpl

@hookimpl
def register_pipeline_stages(registry):
    registry.add("upper", "mix_plugin_targets:Upper", summary="Writes text in capitals.")
"""
TARGETS = '''
import time
from llamatelemetry.pipeline import Port

class Upper:
    """Writes text in capitals.

    A second paragraph.
    """

    name, version, tools = "upper", "1", {}
    inputs = (Port(name="text", kind="text", help="What to write."),)
    outputs = (Port(name="text", kind="text"),)

    def __init__(self, word: str, *, repeat: int = 1) -> None:
        self.parameters = {"word": word, "repeat": repeat}

    def run(self, context):
        for number in range(3):
            context.step(loss=1 / (number + 1))
        path = context.folder / "text.txt"
        path.write_text(context.path("text").read_text().upper() + self.parameters["word"])
        if self.parameters["word"] == "wait":
            print("waiting", flush=True)
            time.sleep(60)
        if self.parameters["word"] == "fail":
            raise ValueError("this word is not for writing")
        return {"text": path}
'''
FILE = """
[pipeline]
name = "road"
store = "kept"

[inputs]
text = "a.txt"

[[stage]]
use = "upper"
id = "first"
inputs = {{ text = "inputs.text" }}
parameters = {{ word = "!" }}

[[stage]]
use = "upper"
id = "second"
inputs = {{ text = "first.text" }}
parameters = {{ word = "{word}" }}
"""


@pytest.fixture
def mix(shelf: Any) -> Any:
    """A shelf with the plugin, and a pipeline's file on it."""
    shelf.plant("mix", PLUGIN, targets=TARGETS)
    (shelf.folder / "a.txt").write_text("abc")
    (shelf.folder / "p.toml").write_text(FILE.format(word="?"))
    return shelf


def pipeline(shelf: Any, *arguments: str) -> Any:
    done = shelf.llamatelemetry("pipeline", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_file_is_run_and_what_it_made_is_where_it_is_said_to_be(mix):
    code, said = pipeline(mix, "run", "p.toml", "--run-id", "r1")
    assert (code, said["run_id"], said["pipeline"], said["state"]) == (0, "r1", "road", "succeeded")
    assert [stage["state"] for stage in said["stages"]] == ["ran", "ran"]
    assert Path(said["stages"][1]["paths"]["text"]).read_text() == "ABC!?"
    assert said["store"] == str(mix.folder / "kept")


def test_what_was_made_is_not_made_again_and_both_runs_can_be_shown(mix):
    pipeline(mix, "run", "p.toml", "--run-id", "r1")
    _, again = pipeline(mix, "run", "p.toml", "--run-id", "r2")
    assert [stage["state"] for stage in again["stages"]] == ["reused", "reused"]
    assert pipeline(mix, "show", "r1", "--store", "kept")[1]["stages"][0]["state"] == "ran"
    assert pipeline(mix, "show", "--store", "kept")[1]["run_id"] == "r2"


def test_one_trace_leads_from_the_run_to_each_stage_and_step(mix):
    _, said = pipeline(mix, "run", "p.toml")
    lines = [line for path in (mix.folder / "llamatelemetry-data").iterdir() for line in path.read_text().splitlines()]
    spans = spans_from_otlp_json(lines)
    assert {span.trace_id for span in spans} == {said["trace_id"]}
    assert [span.name for span in spans] == ["upper", "upper", "pipeline road"]
    assert [len(span.events) for span in spans] == [3, 3, 0]
    assert_valid_spans(spans, ["gen_ai", "llm"])


def test_people_are_told_what_each_stage_cost_and_made(mix):
    done = mix.llamatelemetry("pipeline", "run", "p.toml")
    assert done.returncode == 0
    for text in ("road", "first", "second", "ran", "3 steps, loss 1 to 0.3333", "text.txt", "llamatelemetry-data"):
        assert text in done.stdout, text
    assert "1/2 first done" in done.stderr
    assert "2/2 second was made before" in mix.llamatelemetry("pipeline", "run", "p.toml").stderr


def test_a_dry_run_says_where_inputs_come_from_and_runs_nothing(mix):
    code, said = pipeline(mix, "run", "p.toml", "--dry-run")
    assert code == 0
    assert said["inputs"] == {"first": {"text": "inputs.text"}, "second": {"text": "first.text"}}
    assert "text from first.text" in mix.llamatelemetry("pipeline", "run", "p.toml", "--dry-run").stdout
    assert not (mix.folder / "kept").exists()


@pytest.mark.timeout(300)  # model-signing takes many seconds to import.
def test_all_that_was_made_is_signed_and_what_is_reused_too(mix):
    assert "gone.pem: cannot be read" in mix.llamatelemetry("pipeline", "run", "p.toml", "--sign", "gone.pem").stderr
    assert not (mix.folder / "kept").exists()
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    kinds = serialization.PrivateFormat.PKCS8, serialization.PublicFormat.SubjectPublicKeyInfo
    private = key.private_bytes(pem, kinds[0], serialization.BestAvailableEncryption(b"word"))
    (mix.folder / "key.pem").write_bytes(private)
    (mix.folder / "pub.pem").write_bytes(key.public_key().public_bytes(pem, kinds[1]))
    pipeline(mix, "run", "p.toml")

    told = {"LLAMATELEMETRY_KEY_PASSWORD": "word"}
    done = mix.llamatelemetry("pipeline", "run", "p.toml", "--sign", "key.pem", "--json", env=told)

    run = json.loads(done.stdout)
    assert [stage["state"] for stage in run["stages"]] == ["reused", "reused"]
    for stage in run["stages"]:
        proved = prove(find_artifact(Path(stage["paths"]["text"])), public_key=mix.folder / "pub.pem")
        assert (proved.standing, proved.manifest.digest) == ("signed", stage["outputs"]["text"])
    assert pipeline(mix, "show", "--verify")[1]["problems"] == []


def test_a_failure_is_said_and_the_next_run_goes_on(mix):
    (mix.folder / "p.toml").write_text(FILE.format(word="fail"))
    code, said = pipeline(mix, "run", "p.toml", "--run-id", "r1")
    assert code == 1
    assert said["error"]["type"] == "ValueError"
    assert "stage 'second' failed: ValueError: this word is not for writing" in said["error"]["message"]
    shown = mix.llamatelemetry("pipeline", "show", "r1", "--store", "kept")
    assert "failed: run it again to go on" in shown.stdout
    assert "this word is not for writing" in shown.stdout
    (mix.folder / "p.toml").write_text(FILE.format(word="?"))
    assert [stage["state"] for stage in pipeline(mix, "run", "p.toml")[1]["stages"]] == ["reused", "ran"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_and_its_spans_and_leaves_nothing_half_made(mix, number, code):
    (mix.folder / "p.toml").write_text(FILE.format(word="wait"))
    with mix.start("-m", "llamatelemetry.cli", "pipeline", "run", "p.toml", "--run-id", "r1") as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, progress = process.communicate(timeout=60)
    assert process.returncode == code
    assert "2/2 second interrupted" in progress
    assert "failed" not in progress
    assert list((mix.folder / "kept" / "work").iterdir()) == []
    assert pipeline(mix, "show", "r1", "--store", "kept")[1]["state"] == "interrupted"
    lines = [line for path in (mix.folder / "llamatelemetry-data").iterdir() for line in path.read_text().splitlines()]
    failed = {span.attributes["error.type"] for span in spans_from_otlp_json(lines) if span.failed}
    assert failed == {"KeyboardInterrupt" if number is signal.SIGINT else "SystemExit"}


def test_a_run_whose_process_was_killed_is_shown_as_lost(mix):
    (mix.folder / "p.toml").write_text(FILE.format(word="wait"))
    with mix.start("-m", "llamatelemetry.cli", "pipeline", "run", "p.toml", "--run-id", "r1") as process:
        assert process.stdout.readline() == "waiting\n"
        assert pipeline(mix, "show", "r1", "--store", "kept")[1]["state"] == "running"
        process.kill()
    assert pipeline(mix, "show", "r1", "--store", "kept")[1]["state"] == "lost"


def test_verifying_names_what_is_not_what_it_was(mix):
    _, said = pipeline(mix, "run", "p.toml")
    assert pipeline(mix, "show", "--store", "kept", "--verify")[1]["problems"] == []
    path = Path(said["stages"][0]["paths"]["text"])
    path.chmod(0o644)
    path.write_text("ABc!")
    code, shown = pipeline(mix, "show", "--store", "kept", "--verify")
    assert code == 1
    assert len(shown["problems"]) == 1
    assert "first.text" in shown["problems"][0]
    assert "text.txt" in shown["problems"][0]


def test_verifying_names_provenance_that_is_not_what_it_was(mix):
    pipeline(mix, "run", "p.toml")
    (path, *_) = sorted(mix.folder.glob("kept/manifests/*.intoto.json"))
    path.write_text(path.read_text().replace("urn:llamatelemetry:pipeline", "urn:somebody:else"))
    code, shown = pipeline(mix, "show", "--store", "kept", "--verify")
    assert code == 1
    assert len(shown["problems"]) == 1
    assert path.name in shown["problems"][0]


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ('word = "!"', "word = 1", "p.toml: stage[0].parameters.word=1 is not valid: give text"),
        ('word = "!"', 'wrod = "!"', "p.toml: stage[0].parameters.wrod='!' is not valid: did you mean word?"),
        (
            'use = "upper"',
            'use = "lower"',
            "p.toml: stage[0].use='lower' is not valid: no stage is named 'lower'; registered: ",
        ),
        (
            '"first.text"',
            '"third.text"',
            "p.toml: stage[1].inputs.text='third.text' is not valid: nothing before it is named so",
        ),
        ('text = "a.txt"', 'text = "b.txt"', "b.txt is not there"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_field(mix, right, wrong, problem):
    path = mix.folder / "p.toml"
    path.write_text(path.read_text().replace(right, wrong, 1))
    done = mix.llamatelemetry("pipeline", "run", "p.toml")
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_stages_are_listed_and_explained(mix):
    listed = pipeline(mix, "stages")[1]["stages"]
    assert {"name": "upper", "summary": "Writes text in capitals.", "plugin": "mix"} in listed
    assert "Writes text in capitals." in mix.llamatelemetry("pipeline", "stages").stdout
    _, said = pipeline(mix, "stages", "upper")
    assert said["inputs"] == [{"name": "text", "kind": "text", "optional": False, "help": "What to write."}]
    assert said["parameters"] == {
        "word": {"type": "text", "required": True},
        "repeat": {"type": "a whole number", "required": False, "default": 1},
    }
    shown = mix.llamatelemetry("pipeline", "stages", "upper").stdout
    assert "What to write." in shown
    assert "a whole number" in shown
    done = mix.llamatelemetry("pipeline", "stages", "lower")
    assert (done.returncode, "no stage is named 'lower'" in done.stderr) == (1, True)


def test_the_store_of_the_current_folder_is_found_whatever_it_is_called(mix):
    made = pipeline(mix, "run", "p.toml")[1]
    code, shown = pipeline(mix, "show", "--verify")
    assert (code, shown["run_id"], shown["store"], shown["problems"]) == (0, made["run_id"], "kept", [])
    assert "of 3 manifests in kept are whole" in mix.llamatelemetry("doctor", env={"COLUMNS": "250"}).stdout

    pipeline(mix, "run", "p.toml", "--store", "another")
    code, refused = pipeline(mix, "show")
    assert code == 1
    assert "several stores: another, kept; say which with --store" in refused["error"]["message"]
    pipeline(mix, "run", "p.toml", "--store", "llamatelemetry-artifacts")
    assert pipeline(mix, "show")[1]["store"] == "llamatelemetry-artifacts"


def test_where_there_is_nothing_to_show_it_says_so(shelf):
    done = shelf.llamatelemetry("pipeline", "show")
    assert done.returncode == 1
    assert "no run is recorded in llamatelemetry-artifacts/runs: say with --store" in done.stderr
    listed = shelf.llamatelemetry("pipeline", "stages", env={"LLAMATELEMETRY_PLUGINS": "none"})
    assert "benchmark" in listed.stdout
    assert "llamatelemetry plugins" in listed.stdout


def test_a_terminal_gets_a_bar_for_each_stage(mix):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(mix.folder), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "llamatelemetry.cli", "pipeline", "run", "p.toml"]
    with subprocess.Popen(
        command, cwd=mix.folder, env=environment, stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # What reading raises when the other end is closed.
            while piece := os.read(ours, 65536):
                seen += piece
    os.close(ours)
    assert process.returncode == 0
    assert b"1/2 first" in seen
    assert "━".encode() in seen


@pytest.mark.parametrize("verb", ["run", "stages", "show"])
def test_help_teaches_by_examples(shelf, verb):
    done = shelf.llamatelemetry("pipeline", verb, "--help")
    assert done.returncode == 0
    assert f"llamatelemetry pipeline {verb}" in done.stdout
    assert "--json" in done.stdout

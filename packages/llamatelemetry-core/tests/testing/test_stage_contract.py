"""The contract of stages: one that keeps it, and some that do not, each found by the test that is there for it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamatelemetry.errors import ModelFileError, PipelineError
from llamatelemetry.pipeline import Port, Stage, StageContext
from llamatelemetry.testing.stage_contract import StageContract

TEXT = Port(name="text", kind="text")


class Upper:
    """Writes text in capitals."""

    name, version, tools = "upper", "1", {}
    inputs = outputs = (TEXT,)

    def __init__(self, word: str = "!") -> None:
        self.parameters = {"word": word}

    def run(self, context: StageContext) -> Mapping[str, Path]:
        try:
            text = context.path("text").read_text()
        except UnicodeDecodeError as error:
            raise ModelFileError(context.path("text"), f"is no text: {error}") from None
        made = context.folder / "upper.txt"
        made.write_text(text.upper() + self.parameters["word"])
        context.step(loss=0.5)
        return {"text": made}


class TestUpper(StageContract):
    def make_stage(self) -> Stage:
        return Upper()

    def make_inputs(self, folder: Path) -> Mapping[str, Path]:
        path = folder / "text.txt"
        path.write_text("a few words")
        return {"text": path}


class TestWithoutOutputs(StageContract):
    def make_stage(self) -> Stage:
        stage = Upper()
        stage.inputs = stage.outputs = ()
        stage.run = lambda _context: {}
        return stage


class Strange(TestUpper):
    """A stage that does one thing wrong."""

    __test__ = False

    def __init__(self, change) -> None:
        self._change = change

    def make_stage(self) -> Stage:
        stage = Upper()
        self._change(stage)
        return stage


def writes_to_its_input(stage):
    run = stage.run

    def running(context):
        path = context.path("text")
        made = run(context)
        path.write_text("other words")
        return made

    stage.run = running


def lets_any_error_out(stage):
    stage.run = lambda context: {"text": context.path("text").read_text()}


def leaves_a_thread(stage):
    run, forever = stage.run, threading.Event()
    stage.run = lambda context: threading.Thread(target=forever.wait, args=(3,)).start() or run(context)


def promises_more(stage):
    stage.outputs = (TEXT, Port(name="report", kind="report"))


def changes_by_itself(stage, counter=itertools.count()):  # noqa: B008
    stage.parameters = {"word": str(next(counter))}


def has_no_version(stage):
    stage.version = ""


@pytest.mark.parametrize(
    ("change", "test"),
    [
        (has_no_version, "test_it_is_a_stage"),
        (changes_by_itself, "test_it_is_the_same_stage_each_time_it_is_made"),
        (changes_by_itself, "test_what_it_made_is_taken_again"),
        (promises_more, "test_it_makes_what_it_promises"),
        (writes_to_its_input, "test_it_leaves_its_inputs_as_they_are"),
        (lets_any_error_out, "test_an_input_that_cannot_be_used_is_a_typed_error_and_leaves_nothing"),
        (leaves_a_thread, "test_it_leaves_no_thread_behind"),
    ],
)
def test_a_stage_that_does_not_keep_the_contract_is_found(change, test, tmp_path):
    broken = getattr(Strange(change), test)
    takes_folder = "tmp_path" in broken.__func__.__code__.co_varnames[: broken.__func__.__code__.co_argcount]
    with pytest.raises((AssertionError, PipelineError)):
        broken(tmp_path) if takes_folder else broken()

"""Folders of runs that go on, that ended, and that were killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llamatelemetry.errors import PipelineDefinitionError
from llamatelemetry.pipeline.work import is_going_on, work_folder

HOLDER = """
import sys
from pathlib import Path
from llamatelemetry.pipeline.work import work_folder
with work_folder(Path(sys.argv[1]), "theirs") as folder:
    (folder / "half").write_text("made")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_folder_is_empty_at_first_and_gone_afterwards(tmp_path):
    with work_folder(tmp_path, "r") as folder:
        assert list(folder.iterdir()) == []
        (folder / "half").write_text("made")
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_after_an_exception_too(tmp_path):
    with pytest.raises(KeyboardInterrupt), work_folder(tmp_path, "r"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_process_that_lives_is_left_alone(tmp_path, holder):
    with work_folder(tmp_path, "ours"):
        assert (tmp_path / "theirs" / "half").exists()
    assert is_going_on(tmp_path, "theirs")
    with pytest.raises(PipelineDefinitionError, match="going on"), work_folder(tmp_path, "theirs"):
        pass
    assert (tmp_path / "theirs" / "half").exists()


def test_the_folder_of_a_process_that_was_killed_is_removed_by_the_next(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / "theirs" / "half").exists()
    assert not is_going_on(tmp_path, "theirs")
    with work_folder(tmp_path, "ours"):
        assert not (tmp_path / "theirs").exists()
    assert list(tmp_path.iterdir()) == []

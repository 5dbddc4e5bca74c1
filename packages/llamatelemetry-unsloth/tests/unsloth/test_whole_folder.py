"""A folder is whole or not there."""

from __future__ import annotations

import pytest
from safetensors import SafetensorError

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.unsloth import finetune, merge_adapter
from llamatelemetry.unsloth.whole_folder import whole_folder


def test_it_appears_when_it_is_left(tmp_path):
    with whole_folder(tmp_path / "deep" / "made") as folder:
        (folder / "file").write_text("one")
        assert not (tmp_path / "deep" / "made").exists()

    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["made"]
    assert (tmp_path / "deep" / "made" / "file").read_text() == "one"


def fail_halfway(folder, error):
    with whole_folder(folder) as partial:
        (partial / "file").write_text("half")
        raise error


def test_nothing_is_left_where_it_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fail_halfway(tmp_path / "made", KeyboardInterrupt())

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_full_disk_is_one_error_whoever_wrote(tmp_path, kind):
    with pytest.raises(ModelFileError, match="made: cannot be written: No space left"):
        fail_halfway(tmp_path / "made", kind("No space left on device"))

    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ModelFileError, match="cannot be made"), whole_folder(tmp_path / "file" / "made"):
        pass


def test_what_is_there_is_kept_and_said_before_any_work(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").touch()

    for work in (finetune, merge_adapter):
        with pytest.raises(InvalidValueError, match="something is there"):
            work(tmp_path / "base", tmp_path / "other", tmp_path / "made")
    assert (tmp_path / "made" / "mine").exists()

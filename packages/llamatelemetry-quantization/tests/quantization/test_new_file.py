from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.new_file import new_file


def test_a_file_has_its_name_and_size_once_the_block_ended_well(tmp_path):
    path = tmp_path / "made"
    with new_file(path, 5) as file:
        assert not path.exists()
        os.pwrite(file, b"abc", 1)

    assert path.read_bytes() == b"\0abc\0"
    assert [found.name for found in tmp_path.iterdir()] == ["made"]


def test_room_that_the_disk_does_not_have_is_known_before_the_block(tmp_path):
    with (
        pytest.raises(ModelFileError, match=r"cannot be written: .*\. It takes \d+ bytes"),
        new_file(tmp_path / "a", 2**60),
    ):
        pytest.fail("there is no such disk")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_nobody_may_write_to_is_a_typed_error(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be written"), new_file(tmp_path / "none" / "a", 1):
        pytest.fail("there is no such folder")


def test_a_folder_of_that_name_stays(tmp_path):
    (tmp_path / "made").mkdir()
    with pytest.raises(ModelFileError, match="Is a directory"), new_file(tmp_path / "made", 1):
        pytest.fail("that would be replaced")
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "../folder/.."])
def test_a_name_that_is_a_folders_is_a_typed_error(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    with pytest.raises(ModelFileError, match="Is a directory"), new_file(Path(name), 1):
        pytest.fail("that would be replaced")


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_plain_file_is_not_replaced(tmp_path, linked):
    pipe, path = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    path.symlink_to("pipe")
    with pytest.raises(ModelFileError, match="it is no plain file"), new_file(path if linked else pipe, 1):
        pytest.fail("a device would be replaced")
    assert pipe.is_fifo()
    assert path.is_symlink()


def test_a_name_with_a_null_byte_is_a_typed_error(tmp_path):
    with pytest.raises(ModelFileError, match="null byte"), new_file(tmp_path / "a\0b", 1):
        pytest.fail("there is no such name")

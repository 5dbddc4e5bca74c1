from __future__ import annotations

import os

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

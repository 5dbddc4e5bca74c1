from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llamatelemetry.errors import ModelFileError
from llamatelemetry.untrusted.files import LFS_POINTER, open_regular, read_bounded


def refused(path: Path, says: str, instead: str = "") -> None:
    with pytest.raises(ModelFileError, match=says) as caught, open_regular(path, instead):
        pass
    assert caught.value.path == str(path)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_is_opened_without_a_buffer_and_for_reading_alone(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"12345")
    with open_regular(path) as file:
        assert (file.readable(), file.writable(), file.name) == (True, False, path)
        assert not os.get_inheritable(file.fileno())
        assert file.read(2) == b"12"
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 2
    assert file.closed


def test_a_link_to_a_file_is_followed_as_caches_of_models_are_made_of_them(tmp_path):
    (tmp_path / "blob").write_bytes(b"12345")
    (tmp_path / "model").symlink_to("blob")
    assert read_bounded(tmp_path / "model", 5) == b"12345"


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to("pipe")
    (tmp_path / "nowhere").symlink_to("nothing")
    (tmp_path / "itself").symlink_to("itself")
    before = open_descriptors()
    for path, says in (
        (tmp_path / "none", "does not exist$"),
        (tmp_path / "nowhere", "does not exist$"),
        (tmp_path, "is not a regular file$"),
        (tmp_path / "pipe", "is not a regular file$"),
        (tmp_path / "to-pipe", "is not a regular file$"),
        (Path("/dev/zero"), "is not a regular file$"),
        (tmp_path / "itself", "cannot be opened: Too many levels of symbolic links$"),
        (tmp_path / ("x" * 300), "cannot be opened: File name too long$"),
        (Path("a\0b"), "cannot be opened: embedded null"),
    ):
        refused(path, says)
    assert open_descriptors() == before


def test_what_to_give_instead_is_said_where_it_is_known(tmp_path):
    refused(tmp_path, "is not a regular file; give a .gguf file$", "give a .gguf file")


class Swapping(type(Path())):
    """A path where a pipe takes the place of the file as soon as somebody has looked at it."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        found = super().stat(follow_symlinks=follow_symlinks)
        if stat.S_ISREG(found.st_mode):
            self.unlink()
            os.mkfifo(self)
        return found


def test_a_pipe_that_took_the_place_of_a_file_is_not_waited_for(tmp_path):
    path = Swapping(tmp_path / "model")
    path.write_bytes(b"12345")
    before = open_descriptors()
    refused(path, "is not a regular file$")
    assert open_descriptors() == before


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.touch()

    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # Tests may run as root, whom no mode keeps out.
    refused(path, "cannot be opened: Permission denied$")


def test_an_error_of_the_reader_is_its_own(tmp_path):
    path = tmp_path / "model"
    path.touch()
    with pytest.raises(FileNotFoundError), open_regular(path) as file:
        raise FileNotFoundError
    assert file.closed


def test_a_file_larger_than_allowed_is_not_read(tmp_path):
    path = tmp_path / "model"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelFileError, match=f"has {2**40} bytes, and 100 is the most that such a file needs"):
        read_bounded(path, 100)


def test_a_pointer_of_git_lfs_says_how_to_get_the_file(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(LFS_POINTER + b".github.com/spec/v1\noid sha256:0\nsize 100\n")
    with pytest.raises(ModelFileError, match="fetch the file itself with `git lfs pull`"):
        read_bounded(path, 1000)


@given(st.binary(max_size=64), st.integers(0, 64))
@example(LFS_POINTER, 64)
def test_what_is_read_is_all_of_the_file_or_nothing(tmp_path_factory, data, most):
    path = tmp_path_factory.getbasetemp() / "any.file"
    path.write_bytes(data)
    found = None
    with suppress(ModelFileError):
        found = read_bounded(path, most)
    assert found == (data if len(data) <= most and not data.startswith(LFS_POINTER) else None)

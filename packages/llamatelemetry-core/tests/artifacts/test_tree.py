from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from llamatelemetry.artifacts import checks
from llamatelemetry.artifacts.tree import is_folder, list_files
from llamatelemetry.errors import ArtifactError, ArtifactMissingError, InvalidManifestError, UnsafePathError


def test_all_files_are_listed_in_the_order_of_their_parts(folder: Path) -> None:
    (folder / "empty").mkdir()
    assert list_files(folder) == ("config.json", "model.safetensors", "sub/a.txt", "sub/deep/ü.bin", "sub.txt")


@pytest.mark.parametrize("place", ["link", "sub/deep/link"])
@pytest.mark.parametrize("target", ["config.json", "sub", "/etc/passwd", "nowhere"])
def test_a_symbolic_link_anywhere_is_refused_and_named(folder: Path, place: str, target: str) -> None:
    (folder / place).symlink_to(target)
    with pytest.raises(UnsafePathError, match=f"{place} is a symbolic link"):
        list_files(folder)


def test_a_link_in_place_of_the_artifact_is_refused(folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    with pytest.raises(UnsafePathError, match="use what it leads to"):
        is_folder(link)


def test_pipes_and_sockets_are_refused_without_waiting_for_anybody(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UnsafePathError, match="pipe is neither a file nor a folder"):
        list_files(folder)
    with pytest.raises(UnsafePathError):
        is_folder(folder / "pipe")
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        with pytest.raises(UnsafePathError, match="socket is neither"):
            list_files(folder)


def test_a_device_is_refused() -> None:
    with pytest.raises(UnsafePathError):
        is_folder(Path(os.devnull))


@pytest.mark.parametrize("name", [b"\xff\xfe", b"line\nbreak", b"\x1b[31m", "a\u202eb".encode()])
def test_a_name_that_is_no_line_of_text_is_refused(folder: Path, name: bytes) -> None:
    (folder / os.fsdecode(name)).touch()
    with pytest.raises(InvalidManifestError):
        list_files(folder)


def test_too_many_files_are_refused_before_all_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_FILES", 4)
    with pytest.raises(InvalidManifestError, match="at most 4 files"):
        list_files(folder)


def test_what_is_not_there_and_what_cannot_be_a_path_are_errors_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError):
        is_folder(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="null"):
        is_folder(Path("a\0b"))

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.artifacts.hashing import BUFFER_BYTES, HashProgress, hash_file, hash_files, open_unchanging
from llamatelemetry.errors import ArtifactChangedError, ArtifactMissingError, UnsafePathError


def made(folder: Path, sizes: list[int]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"file-{index}" for index in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(os.urandom(min(size, 4096)) * (size // 4096 + 1) if size else b"")
        os.truncate(path, size)
    return paths


@given(
    sizes=st.lists(st.sampled_from([0, 1, 4096, BUFFER_BYTES - 1, BUFFER_BYTES, 2 * BUFFER_BYTES + 7]), max_size=12),
    workers=st.integers(1, 8),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_files_in_parallel_have_the_digests_that_hashlib_gives(
    sizes: list[int], workers: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = made(tmp_path_factory.mktemp("files"), sizes)
    digests = hash_files(paths, workers=workers)
    assert [each.sha256 for each in digests] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert [each.size_bytes for each in digests] == sizes


def test_two_files_are_read_by_two_threads(tmp_path: Path) -> None:
    threads = set()

    def note(_progress: HashProgress) -> None:
        if not threads:
            time.sleep(0.3)  # So that the other has begun before this one could take both files.
        threads.add(threading.get_ident())

    hash_files(made(tmp_path / "two", [BUFFER_BYTES * 4] * 2), workers=2, progress=note)
    assert len(threads) == 2
    assert threading.get_ident() not in threads


def test_progress_only_grows_and_ends_with_everything_done(tmp_path: Path) -> None:
    told: list[HashProgress] = []
    sizes = [3 * BUFFER_BYTES + 5, 0, 17, BUFFER_BYTES]
    hash_files(made(tmp_path / "told", sizes), workers=3, progress=told.append)
    assert [each.done_bytes for each in told] == sorted(each.done_bytes for each in told)
    assert told[-1] == HashProgress(done_bytes=sum(sizes), total_bytes=sum(sizes), done_files=4, total_files=4)
    assert len(told) >= 5


def test_no_thread_is_left_after_a_failure_and_nothing_waits_for_the_rest(tmp_path: Path) -> None:
    paths = made(tmp_path / "some", [BUFFER_BYTES] * 6)
    read = 0

    def stop(progress: HashProgress) -> None:
        nonlocal read
        read = progress.done_bytes
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_files(paths, workers=2, progress=stop)
    assert read <= 4 * BUFFER_BYTES
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("llamatelemetry-hash")]


def test_a_file_that_grows_while_it_is_hashed_has_no_digest(tmp_path: Path) -> None:
    (path,) = made(tmp_path / "one", [3 * BUFFER_BYTES])

    def write(progress: HashProgress) -> None:
        with path.open("ab") as file:
            file.write(b"x")

    with pytest.raises(ArtifactChangedError, match="file-0 changed while it was read"):
        hash_files([path], progress=write)


def test_a_file_that_is_replaced_while_it_is_hashed_has_no_digest(tmp_path: Path) -> None:
    (path,) = made(tmp_path / "one", [3 * BUFFER_BYTES])

    def replace(progress: HashProgress) -> None:
        (path.parent / "new").write_bytes(b"")
        (path.parent / "new").replace(path)

    with pytest.raises(ArtifactChangedError):
        hash_files([path], progress=replace)


def test_a_link_a_pipe_and_nothing_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafePathError, match="link is a symbolic link"):
        hash_file(tmp_path / "link")
    with pytest.raises(UnsafePathError, match="pipe is no plain file"):
        hash_file(tmp_path / "pipe")
    with pytest.raises(UnsafePathError, match="no plain file"):
        hash_file(tmp_path)
    with pytest.raises(ArtifactMissingError):
        hash_file(tmp_path / "absent")


def test_a_descriptor_is_closed_whatever_happens(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RuntimeError), open_unchanging(tmp_path / "file") as descriptor:
        raise RuntimeError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)

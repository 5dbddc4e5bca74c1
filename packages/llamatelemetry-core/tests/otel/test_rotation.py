from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamatelemetry.otel.rotation import RotatingFile


def lines_of(folder: Path) -> list[bytes]:
    return [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines(keepends=True)]


def opened(folder: Path, *, max_bytes: int = 100, max_count: int = 100) -> RotatingFile:
    return RotatingFile(folder, "traces", max_bytes=max_bytes, max_count=max_count)


def test_no_file_is_made_before_the_first_line(tmp_path: Path) -> None:
    file = opened(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    file.write(b"x\n")
    (path,) = (tmp_path / "new").iterdir()
    assert path.name.startswith(f"traces-{os.getpid()}-")
    assert path.stat().st_mode & 0o077 == 0, "telemetry is its owner's alone"
    file.close()


def test_a_full_file_is_renamed_away_and_the_active_one_keeps_its_name(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.write(b"a" * 59 + b"\n")
    (active,) = tmp_path.iterdir()
    file.write(b"b" * 59 + b"\n")
    file.close()
    rotated = active.with_suffix(".0001.jsonl")
    assert sorted(tmp_path.iterdir()) == sorted([active, rotated])
    assert rotated.read_bytes() == b"a" * 59 + b"\n"
    assert active.read_bytes() == b"b" * 59 + b"\n"


def test_a_line_longer_than_a_file_stands_alone(tmp_path: Path) -> None:
    file = opened(tmp_path)
    for line in (b"a\n", b"b" * 500 + b"\n", b"c\n"):
        file.write(line)
    file.close()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"a\n", b"b" * 500 + b"\n", b"c\n"]


@given(sizes=st.lists(st.integers(1, 150), max_size=40))
@settings(max_examples=25, deadline=None)
def test_whatever_the_lines_none_is_lost_or_cut_and_files_stay_small(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    file = opened(folder)
    written = [str(index).encode().rjust(size, b"0") + b"\n" for index, size in enumerate(sizes)]
    for line in written:
        file.write(line)
    file.close()
    assert sorted(lines_of(folder)) == sorted(written)
    assert all(path.stat().st_size <= 100 or path.read_bytes().count(b"\n") == 1 for path in folder.iterdir())


def test_past_the_count_the_oldest_file_is_deleted(tmp_path: Path) -> None:
    file = opened(tmp_path, max_bytes=1, max_count=3)
    for index in range(8):
        file.write(b"%d\n" % index)
    file.close()
    assert sorted(lines_of(tmp_path)) == [b"5\n", b"6\n", b"7\n"]


def test_files_of_other_signals_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "metrics-1-x.jsonl").write_bytes(b"m\n")
    file = opened(tmp_path, max_bytes=1, max_count=1)
    file.write(b"a\n")
    file.write(b"b\n")
    file.close()
    assert sorted(lines_of(tmp_path)) == [b"b\n", b"m\n"]


def test_a_file_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    theirs = opened(tmp_path)
    theirs.write(b"theirs\n")
    ours = opened(tmp_path, max_bytes=1, max_count=1)
    ours.write(b"1\n")
    ours.write(b"2\n")
    assert sorted(lines_of(tmp_path)) == [b"2\n", b"theirs\n"]
    theirs.close()
    ours.write(b"3\n")
    ours.close()
    assert lines_of(tmp_path) == [b"3\n"], "once nobody writes to it, it is as old as it looks"


def test_a_folder_removed_under_way_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    file = opened(folder)
    file.write(b"1\n")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    file.write(b"2\n")
    file.close()
    assert lines_of(folder) == [b"2\n"]


@contextmanager
def disk_of_ten_bytes() -> Iterator[None]:
    # A limit on file size fails a write part-way, as a full disk does. It holds for the whole process, the
    # test runner's own output included, so nothing but the write stands inside.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_half(tmp_path: Path) -> None:
    file = opened(tmp_path)
    with disk_of_ten_bytes():
        file.write(b"12345\n")
        with pytest.raises(OSError, match="too large"):
            file.write(b"1234567\n")
        assert lines_of(tmp_path) == [b"12345\n"]
    file.write(b"789\n")
    file.close()
    assert lines_of(tmp_path) == [b"12345\n", b"789\n"]

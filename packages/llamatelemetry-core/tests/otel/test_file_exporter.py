from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.errors import ConfigurationError
from llamatelemetry.otel.file_exporter import FileSender, file_spans, prepare_folder
from llamatelemetry.otel.rotation import RotatingFile


def sender_to(folder: Path, max_bytes: int = 200) -> FileSender[str]:
    file = RotatingFile(folder, "traces", max_bytes=max_bytes, max_count=100)
    return FileSender(file, lambda batch: {"resourceSpans": list(batch)}, max_bytes)


def written(folder: Path) -> list[Any]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


def test_a_batch_is_one_line(tmp_path: Path) -> None:
    sender = sender_to(tmp_path)
    assert sender.send(["a", "b"]) == 2
    sender.close()
    assert written(tmp_path) == [{"resourceSpans": ["a", "b"]}]


def test_a_batch_too_long_for_a_file_is_split(tmp_path: Path) -> None:
    sender = sender_to(tmp_path)
    items = [str(index) * 50 for index in range(8)]
    assert sender.send(items) == 8
    sender.close()
    lines = written(tmp_path)
    assert sorted(item for line in lines for item in line["resourceSpans"]) == sorted(items)
    assert all(path.stat().st_size <= 200 for path in tmp_path.iterdir())


def test_a_full_disk_is_counted_and_said_once_until_it_works_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = tmp_path / "traces.jsonl"
    full.symlink_to("/dev/full")

    class OnFullDisk(RotatingFile):
        def _new_path(self) -> Path:
            return tmp_path / "elsewhere.jsonl"

        def _open(self) -> int:
            self._path, self._fd = full, os.open(full, os.O_WRONLY)
            return self._fd

    sender: FileSender[str] = FileSender(
        OnFullDisk(tmp_path, "traces", max_bytes=100, max_count=1), lambda batch: {"resourceSpans": batch}, 100
    )
    with caplog.at_level(logging.WARNING):
        assert [sender.send(["a"]), sender.send(["b"])] == [0, 0]
    assert [record.message for record in caplog.records] == [
        "telemetry cannot be written and is being lost: [Errno 28] No space left on device"
    ]
    sender._file = RotatingFile(tmp_path / "good", "traces", max_bytes=100, max_count=1)
    assert sender.send(["c"]) == 1
    sender._file.close()
    sender._file = OnFullDisk(tmp_path, "traces", max_bytes=100, max_count=1)
    assert sender.send(["d"]) == 0
    assert len(caplog.records) == 2
    sender.close()


def test_closing_while_a_line_is_written_waits_for_nothing_and_takes_no_file_from_under_it(tmp_path: Path) -> None:
    writing, go_on = threading.Event(), threading.Event()

    class OnSlowDisk(RotatingFile):
        def write(self, line: bytes) -> None:
            fd = self._descriptor()
            writing.set()
            assert go_on.wait(10)
            assert os.fstat(fd)
            super().write(line)

    file = OnSlowDisk(tmp_path, "traces", max_bytes=100, max_count=1)
    sender: FileSender[str] = FileSender(file, lambda batch: {"resourceSpans": batch}, 100)
    thread = threading.Thread(target=sender.send, args=(["a"],))
    thread.start()
    assert writing.wait(5)
    sender.close()
    go_on.set()
    thread.join(5)
    assert written(tmp_path) == [{"resourceSpans": ["a"]}]
    assert file._fd is None


def test_a_folder_is_made_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = prepare_folder(Path("a/b"))
    assert folder == tmp_path / "a/b"
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"telemetry_dir=.* give a folder that can be written"):
        prepare_folder(tmp_path / "file" / "data")


def test_the_sender_of_a_signal_names_its_files_after_it(tmp_path: Path) -> None:
    sender = file_spans(tmp_path, 1000, 2)
    assert sender.send([]) == 0
    sender.close()
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["traces"]

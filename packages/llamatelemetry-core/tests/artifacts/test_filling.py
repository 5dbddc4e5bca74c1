from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llamatelemetry.artifacts.filling import folder_to_fill

FILLS = """
import sys, time
from pathlib import Path
from llamatelemetry.artifacts.filling import folder_to_fill
with folder_to_fill(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(60)
"""


def made_long_ago(folder: Path) -> None:
    os.utime(folder, (1, 1))


def swept(parent: Path) -> list[str]:
    """Names of what is left once somebody else wanted a folder."""
    with folder_to_fill(parent):
        pass
    return [path.name for path in parent.iterdir()]


def test_a_folder_is_gone_afterwards_whatever_happened(tmp_path: Path) -> None:
    with folder_to_fill(tmp_path) as folder:
        (folder / "file").write_bytes(b"x")
    with pytest.raises(RuntimeError), folder_to_fill(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_fills_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", FILLS, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        made_long_ago(folder)
        assert swept(tmp_path) == [folder.name]
        assert (folder / "half").exists()
        process.send_signal(signal.SIGKILL)
    assert swept(tmp_path) == []


def test_a_folder_that_may_just_have_been_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".new-young").mkdir()
    assert swept(tmp_path) == [".new-young"]
    made_long_ago(tmp_path / ".new-young")
    assert swept(tmp_path) == []


def test_only_folders_of_its_own_are_removed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / ".new-link").symlink_to("outside")
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1), follow_symlinks=False)
    assert sorted(swept(tmp_path)) == [".new-link", "other", "outside"]

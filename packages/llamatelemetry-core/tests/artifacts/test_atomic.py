from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.errors import ArtifactError

WRITES_FOR_EVER = """
import sys
from pathlib import Path
from llamatelemetry.artifacts.atomic import write_atomically
path = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in (b"a", b"b"):
        write_atomically(path, letter * 3_000_000)
"""

WRITES_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.errors import ArtifactError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), b"new" * 1000)
except ArtifactError as error:
    print(error)
"""


def test_what_was_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_process_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for pause_s in (0.0, 0.003, 0.01, 0.02):
        with subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while not path.exists():
                time.sleep(0.001)
            time.sleep(pause_s)
            process.send_signal(signal.SIGKILL)
        assert path.read_bytes() in {b"a" * 3_000_000, b"b" * 3_000_000}


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", WRITES_ON_A_FULL_DISK, path], capture_output=True, text=True, timeout=60, check=True
    )
    assert str(path) in done.stdout
    assert "File too large" in done.stdout
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"old")]


def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="absent/file cannot be used: No such file"):
        write_atomically(tmp_path / "absent" / "file", b"")


def test_a_link_in_the_place_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "file").symlink_to("other")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "other").read_bytes() == b"other"
    assert not (tmp_path / "file").is_symlink()

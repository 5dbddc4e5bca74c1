from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from llamatelemetry.llama import child as module
from llamatelemetry.llama.child import EXEC_FAILED

CHILD = [sys.executable, "-I", "-S", module.__file__]


def run_child(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CHILD, *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_it_becomes_the_program_it_is_given():
    done = run_child(str(os.getpid()), "/bin/echo", "two words", "--flag")
    assert (done.returncode, done.stdout) == (0, "two words --flag\n")


def test_a_program_that_cannot_be_executed_is_named(tmp_path):
    path = tmp_path / "not-a-program"
    path.write_bytes(b"\x7fELF but not really")
    path.chmod(0o755)
    done = run_child(str(os.getpid()), str(path))
    assert done.returncode == EXEC_FAILED
    assert str(path) in done.stderr


def test_it_starts_nothing_when_its_parent_is_gone_already():
    done = run_child("1" if os.getpid() != 1 else "2", "/bin/echo", "started")
    assert (done.returncode, done.stdout) == (0, "")


def test_an_ignored_sigterm_is_not_passed_on():
    code = (
        "import signal, subprocess, sys, os;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "process = subprocess.Popen([*sys.argv[1:], str(os.getpid()), '/bin/sh', '-c', 'echo ready; exec sleep 60'],"
        " stdout=subprocess.PIPE);"
        "process.stdout.readline();"
        "process.terminate();"
        "sys.exit(-process.wait(20))"
    )
    done = subprocess.run([sys.executable, "-c", code, *CHILD], timeout=30, check=False)
    assert done.returncode == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_parent(number, wait_gone):
    code = (
        "import os, subprocess, sys;"
        "process = subprocess.Popen([*sys.argv[1:], str(os.getpid()), '/bin/sh', '-c', 'echo ready; exec sleep 60'],"
        " stdout=subprocess.PIPE);"
        "process.stdout.readline();"
        "print(process.pid, flush=True);"
        "process.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code, *CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(number)
        parent.wait()
    wait_gone(child)

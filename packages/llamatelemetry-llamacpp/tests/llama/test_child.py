from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from llamatelemetry.llama import child as module
from llamatelemetry.llama.child import EXEC_FAILED
from llamatelemetry.llama.process import ChildProcess

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
def test_what_a_wrapper_script_starts_dies_with_the_parent_of_the_script(number, wait_gone, tmp_path):
    script = tmp_path / "llama-server"
    script.write_text("#!/bin/sh\nsleep 60 &\necho $!\nwait\n")
    script.chmod(0o755)
    code = (
        "import os, subprocess, sys;"
        "process = subprocess.Popen([*sys.argv[2:], str(os.getpid()), sys.argv[1]], stdout=subprocess.PIPE,"
        " start_new_session=True);"
        "print(process.pid, process.stdout.readline().decode(), flush=True);"
        "process.wait()"
    )
    command = [sys.executable, "-c", code, str(script), *CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        wrapper, inner = map(psutil.Process, map(int, parent.stdout.readline().split()))
        watcher = next(each for each in wrapper.children() if each.pid != inner.pid)
        parent.send_signal(number)
        parent.wait()
    for process in (wrapper, inner, watcher):
        wait_gone(process)


def test_nothing_stands_beside_a_program_that_is_no_script():
    with subprocess.Popen(
        [*CHILD, str(os.getpid()), "/bin/sh", "-c", "echo ready; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert psutil.Process(process.pid).children() == []
        process.communicate(b"\n")


def test_a_script_that_is_stopped_politely_has_time_to_end(tmp_path):
    script = tmp_path / "llama-server"
    script.write_text("#!/bin/sh\ntrap 'sleep 0.2; echo bye; exit 3' TERM\necho ready\nwhile :; do sleep 0.05; done\n")
    script.chmod(0o755)
    child = ChildProcess([*CHILD, str(os.getpid()), str(script)])
    child.start()
    while child.log_tail() != ("ready",):
        assert not child.ended.wait(0.01)
    child.stop(20)
    assert (child.returncode, child.log_tail()[-1]) == (3, "bye")


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

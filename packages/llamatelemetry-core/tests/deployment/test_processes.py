"""Processes, told from those that have their number later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from llamatelemetry.deployment.processes import (
    ProcessRef,
    end,
    is_running,
    private_bytes,
    process_ref,
    wait_gone,
)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as running:
        yield running
        running.kill()


def ref(child: subprocess.Popen[bytes]) -> ProcessRef:
    found = process_ref(child.pid)
    assert found is not None
    return found


def test_a_process_runs_until_it_ended_also_before_it_was_reaped(child):
    process = ref(child)
    assert is_running(process)
    os.kill(child.pid, signal.SIGKILL)
    assert wait_gone(process, 5)
    assert child.returncode is None


def test_a_process_that_has_the_number_of_another_is_not_taken_for_it(child):
    other = replace(ref(child), started="another boot:1")
    assert not is_running(other)
    assert end(other, 1)
    assert child.poll() is None


def test_what_does_not_heed_a_request_to_end_is_killed():
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        assert end(ref(stubborn), 0.1)
        assert stubborn.wait() == -signal.SIGKILL


def test_a_process_that_does_not_end_in_time_is_waited_for_no_longer(child):
    assert not wait_gone(ref(child), 0.05)


def test_nobody_has_no_process_and_no_memory(child):
    child.kill()
    child.wait()
    assert process_ref(child.pid) is None
    assert not is_running(None)
    assert private_bytes(None) == 0
    assert private_bytes(process_ref(os.getpid())) > 2**20

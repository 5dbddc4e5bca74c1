"""What a piece of code cost, against code whose cost is known."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from llamatelemetry.clock import ManualClock
from llamatelemetry.pipeline.resources import ResourceWatch


def test_time_is_the_clocks():
    clock = ManualClock()
    watch = ResourceWatch(clock.clock)
    clock.advance(2.5)
    assert watch.close().wall_s == 2.5


def test_cpu_of_this_process_and_of_children_are_told_apart():
    watch = ResourceWatch()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    cost = watch.close()
    assert cost.children_cpu_s >= 0.25
    assert cost.cpu_s < cost.children_cpu_s


def test_memory_that_came_and_went_is_in_the_peak():
    before = ResourceWatch().close().memory_peak_bytes or 0
    watch = ResourceWatch()
    ballast = bytearray(b"x") * 2**27
    time.sleep(0.3)
    del ballast
    assert (watch.close().memory_peak_bytes or 0) >= before + 2**26


def test_a_peak_too_short_to_be_seen_is_known_where_the_system_keeps_it():
    code = (
        "from llamatelemetry.pipeline.resources import ResourceWatch\n"
        "before = ResourceWatch().close().memory_peak_bytes\n"
        "watch = ResourceWatch()\n"
        "bytearray(b'x') * 2**25\n"
        "print(watch.close().memory_peak_bytes - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 2**24


def test_watches_within_each_other_see_their_own_part():
    outer = ResourceWatch()
    ballast = bytearray(b"x") * 2**27
    time.sleep(0.25)
    del ballast
    inner = ResourceWatch()
    time.sleep(0.25)
    inside, whole = inner.close(), outer.close()
    assert (whole.memory_peak_bytes or 0) >= (inside.memory_peak_bytes or 0) + 2**26


def test_no_thread_is_left_once_nobody_watches():
    watch = ResourceWatch()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("llamatelemetry-memory") == 1
    watch.close()
    until = time.monotonic() + 10
    while "llamatelemetry-memory" in [thread.name for thread in threading.enumerate()]:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_forked_child_can_watch_although_its_parent_does():
    watch = ResourceWatch()
    child = os.fork()
    if child == 0:
        try:
            time.sleep(0.01)
            cost = ResourceWatch().close()
            os._exit(0 if cost.memory_peak_bytes else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    watch.close()

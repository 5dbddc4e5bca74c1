from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from llamatelemetry.llama import child as tie
from llamatelemetry.llama.process import LINE_BYTES, LOG_LINES, ChildProcess


def shell(text: str, **options) -> ChildProcess:
    child = ChildProcess(["/bin/sh", "-c", text], **options)
    child.start()
    return child


def ended(child: ChildProcess) -> ChildProcess:
    assert child.ended.wait(20)
    child.stop(0)
    return child


def until(condition) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_both_outputs_are_its_log_in_order():
    child = ended(shell("echo one; echo two >&2; echo; echo three"))
    assert child.log_tail() == ("one", "two", "three")
    assert child.log_tail(1) == ("three",)
    assert child.returncode == 0


def test_the_log_in_memory_is_bounded_and_keeps_the_end():
    child = ended(shell(f"seq 1 {LOG_LINES * 3}"))
    assert len(child.log_tail()) == LOG_LINES
    assert child.log_tail()[-1] == str(LOG_LINES * 3)


def test_a_line_without_end_is_cut_into_pieces():
    code = f"import sys; sys.stdout.write('x' * {LINE_BYTES * 500})"
    child = ChildProcess([sys.executable, "-c", code])
    child.start()
    ended(child)
    assert max(map(len, child.log_tail())) <= LINE_BYTES
    assert len(child.log_tail()) <= LOG_LINES


def test_bytes_that_are_not_text_do_not_hurt():
    assert ended(shell(r"printf 'a\377b\n'")).log_tail() == ("a\N{REPLACEMENT CHARACTER}b",)


def test_a_line_without_newline_at_the_end_is_kept():
    assert ended(shell("printf last")).log_tail() == ("last",)


def test_the_whole_log_goes_to_the_file_and_is_appended(tmp_path):
    path = tmp_path / "server.log"
    path.write_text("before\n")
    ended(shell(f"seq 1 {LOG_LINES * 3}", log_file=path))
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("before", str(LOG_LINES * 3), LOG_LINES * 3 + 1)


def test_a_log_file_that_cannot_be_opened_is_an_error_before_the_start(tmp_path):
    child = ChildProcess(["/bin/true"], log_file=tmp_path / "no" / "such" / "folder")
    with pytest.raises(FileNotFoundError):
        child.start()
    assert child.pid is None


def test_a_full_disk_ends_the_file_and_not_the_log():
    child = ended(shell("seq 1 1000", log_file=Path("/dev/full")))
    assert child.log_tail()[-1] == "1000"


def test_a_line_that_the_listener_takes_is_not_logged():
    seen = []
    child = ended(shell("echo one; echo secret", on_line=lambda line: seen.append(line) or line == "secret"))
    assert seen == ["one", "secret"]
    assert child.log_tail() == ("one",)


def test_a_program_that_is_not_there_is_an_error(tmp_path):
    child = ChildProcess([str(tmp_path / "gone")])
    with pytest.raises(FileNotFoundError):
        child.start()
    child.stop(1)


def test_its_end_is_noticed_with_the_exit_status():
    assert ended(shell("exit 7")).returncode == 7
    assert ended(shell("kill -SEGV $$")).returncode == -signal.SIGSEGV


def test_stop_is_polite_first():
    child = shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: child.log_tail() == ("ready",))
    child.stop(20)
    assert child.returncode == 3
    assert child.log_tail()[-1] == "bye"


def test_stop_is_not_polite_for_long():
    child = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: child.log_tail() == ("ready",))
    child.stop(0.2)
    assert child.returncode == -signal.SIGKILL


def test_stopping_twice_or_after_the_end_is_harmless():
    child = shell("exec sleep 60")
    child.stop(5)
    child.stop(5)
    assert child.returncode == -signal.SIGTERM
    ended(shell("true")).stop(5)


def test_threads_may_stop_it_at_once():
    child = shell("exec sleep 60")
    threads = [threading.Thread(target=child.stop, args=(5,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert child.returncode == -signal.SIGTERM


def test_what_a_wrapper_script_starts_is_stopped_with_it(wait_gone):
    child = shell("sleep 60 & echo $!; wait")
    until(child.log_tail)
    inner = psutil.Process(int(child.log_tail()[0]))
    child.stop(5)
    wait_gone(inner)


def test_the_end_of_a_wrapper_script_is_noticed_though_its_child_keeps_the_output_open(wait_gone):
    child = shell("sleep 60 & echo $!; sleep 0.2")
    until(child.log_tail)
    inner = psutil.Process(int(child.log_tail()[0]))
    ended(child)
    wait_gone(inner)


def test_it_outlives_the_thread_that_asked_for_it():
    child = ChildProcess([sys.executable, "-I", "-S", tie.__file__, str(os.getpid()), "/bin/cat"])
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    assert not child.ended.wait(0.5)
    child.stop(5)


def test_a_fork_cannot_stop_its_parents_child():
    child = shell("exec sleep 60")
    pid = os.fork()
    if pid == 0:
        child.stop(0)
        os._exit(0)
    os.waitpid(pid, 0)
    assert not child.ended.is_set()
    child.stop(5)


def test_ctrl_c_in_the_terminal_does_not_reach_it():
    child = shell("exec sleep 60")
    assert child.pid is not None
    assert os.getpgid(child.pid) != os.getpgid(0)
    child.stop(5)

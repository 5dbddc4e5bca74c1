"""``llamatelemetry gpu --watch`` on stub drivers, into pipes and in terminals: real processes, and no real GPU."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.testing.nvml_stub import LAPTOP, TESLA_T4_X2, NvmlStub, StubDevice

GIB = 2**30
DASH = "\N{EN DASH}"
T4_X2 = tuple(
    replace(device, uuid=f"GPU-{start}-0000-4000-8000-000000000000", counter_phase_s=0)
    for device, start in zip(TESLA_T4_X2, ("7e0a5700", "3b1c90de"), strict=True)
)
"""UUIDs that differ from the beginning, as real ones do."""
SW_POWER_CAP = 0x4

Stub = Callable[[Sequence[StubDevice]], NvmlStub]


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """Makes a stub whose clock stands at ten seconds."""

    def make(devices: Sequence[StubDevice]) -> NvmlStub:
        made = NvmlStub(devices, tmp_path)
        made.set_time(10)
        return made

    return make


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it ended"
    return line


@contextlib.contextmanager
def watching(shelf: Any, stub: NvmlStub, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Watches into a pipe; Ctrl-C must end it well."""
    with shelf.start("-m", "llamatelemetry.cli", "gpu", "--watch", *arguments, env=dict(stub.environ)) as process:
        try:
            yield process
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_watching_stub_gpus_into_a_pipe_is_a_line_each_in_every_interval(shelf: Any, stub: Stub) -> None:
    machine = stub(T4_X2)
    with watching(shelf, machine, "--interval", "0.3") as process:
        first = [next_line(process) for _ in range(2)]
        machine.devices[0].power_w(50)
        machine.devices[0].throttle(SW_POWER_CAP)
        machine.advance(2)
        later = first[0]
        while "throttled sw_power_cap" not in later or "energy 100 J" not in later:
            later, _other = next_line(process), next_line(process)
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    figures = "memory 0.0/15.0 GiB, util 0 %, power 10/70 W, temp {} °C, clocks 300/405 MHz, energy 0.00 J\n"
    for line, who, temperature in zip(first, ("0 GPU-7e0a5700", "1 GPU-3b1c90de"), (38, 39), strict=True):
        assert re.match(moment, line)
        assert line.split(" ", 1)[1] == f"GPU {who} Tesla T4: " + figures.format(temperature)
    assert "GPU 0 GPU-7e0a5700 Tesla T4: " in later
    assert "power 50/70 W" in later


def test_watching_a_stub_laptop_gives_each_reason_once_on_standard_error(shelf: Any, stub: Stub) -> None:
    env = {**stub(LAPTOP).environ, "PYTHONUNBUFFERED": "1"}
    arguments = ("-m", "llamatelemetry.cli", "gpu", "--watch", "--interval", "0.2", "--processes")
    with shelf.start(*arguments, env=env) as process:
        lines = [next_line(process) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert all(f"power 8/{DASH}¹ W" in line and line.endswith("no process\n") for line in lines)
    assert errors.strip() == "¹ power limit: the driver does not tell it"


def test_watching_stub_gpus_as_json_is_an_object_a_line_that_counts_from_its_beginning(shelf: Any, stub: Stub) -> None:
    machine = stub(T4_X2)
    with watching(shelf, machine, "--json", "--interval", "0.3") as process:
        first = json.loads(next_line(process))
        machine.devices[0].xid(79)
        machine.advance(5)
        later = first
        while later["gpus"][0]["energy_j"] < 50 or not later["gpus"][0]["xid_errors"]:
            later = json.loads(next_line(process))
    assert [gpu["energy_j"] for gpu in first["gpus"]] == [0, 0]
    assert [gpu["energy_j"] for gpu in later["gpus"]] == [50, 50]
    assert [gpu["xid_errors"] for gpu in later["gpus"]] == [1, 0]
    assert first["time"] < later["time"]
    assert {"energy_j", "xid_errors"}.isdisjoint(later["gpus"][0]["absent"])


def test_a_stub_gpu_that_is_lost_while_watched_is_told_and_the_other_goes_on_until_both_are_back(
    shelf: Any, stub: Stub
) -> None:
    machine = stub(T4_X2)
    with watching(shelf, machine, "--json", "--interval", "0.3") as process:
        next_line(process)
        machine.devices[0].lose()
        seen = [json.loads(next_line(process))]
        while not seen[-1]["gpus"][0]["lost"]:
            seen.append(json.loads(next_line(process)))
        machine.devices[1].power_w(33)
        while seen[-1]["gpus"][1]["power_w"] != 33:
            seen.append(json.loads(next_line(process)))
        gone = seen[-1]["gpus"][0]
        assert (gone["lost"], gone["state"], gone["power_w"], gone["power_limit_w"]) == (True, "failed", None, 70.0)
        machine.devices[0].restore()
        while seen[-1]["gpus"][0]["lost"]:
            seen.append(json.loads(next_line(process)))
        assert seen[-1]["gpus"][0]["power_w"] == 10


def test_a_reader_that_leaves_a_watch_of_stub_gpus_ends_it_quietly(shelf: Any, stub: Stub) -> None:
    env = dict(stub(T4_X2).environ)
    with shelf.start("-m", "llamatelemetry.cli", "gpu", "--watch", "--interval", "0.2", env=env) as process:
        next_line(process)
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_stub_driver_that_hangs_is_told_and_holds_back_neither_the_view_nor_ctrl_c(shelf: Any, stub: Stub) -> None:
    machine = stub(T4_X2)
    with watching(shelf, machine, "--json", "--interval", "0.3") as process:
        next_line(process)
        machine.slow("nvmlDeviceGetPowerUsage", 300)
        age_s = 0.0
        while age_s < 1.5:
            age_s = json.loads(next_line(process))["gpus"][0]["age_s"]
        machine.slow("nvmlDeviceGetPowerUsage", 0)


class Terminal:
    """A terminal that a command runs in."""

    def __init__(self, command: Sequence[str], environ: dict[str, str], *, rows: int = 30, columns: int = 90) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(command, env=environ, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.said = ""

    def read_until(self, condition: Callable[[str], bool], timeout_s: float = 60) -> str:
        """What was written, once it is as it should be; without control sequences."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.plain):
            assert time.monotonic() < deadline, self.plain
            self._read()
        return self.plain

    def interrupt(self) -> int:
        """Types Ctrl-C, and reads to the end."""
        os.write(self._master, b"\x03")
        while self.process.poll() is None:
            self._read()
        os.close(self._master)
        return self.process.returncode

    @property
    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.said)

    def _read(self) -> None:
        if select.select([self._master], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):
                self.said += os.read(self._master, 65536).decode(errors="replace")


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Opens terminals that run the verb in a session of their own, so that Ctrl-C reaches it alone."""
    opened: list[Terminal] = []

    def open_terminal(stub: NvmlStub, *arguments: str) -> Terminal:
        code = "import os, fcntl, termios, sys; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        code += "os.execv(sys.executable, [sys.executable, '-m', 'llamatelemetry.cli', 'gpu', *sys.argv[1:]])"
        kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        environ = {**kept, **stub.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
        opened.append(Terminal([sys.executable, "-c", code, *arguments], environ))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


def last_view(plain: str, start: str = "driver 550") -> str:
    """What was drawn last from there on, each view over the one before; of anything but the top, that line."""
    drawn = plain.rsplit(start, 1)[1]
    return drawn if start == "driver 550" else start + drawn.splitlines()[0].rstrip()


def test_watching_stub_gpus_in_a_terminal_draws_curves_and_ctrl_c_ends_it(
    stub: Stub, terminal: Callable[..., Terminal]
) -> None:
    machine = stub(T4_X2)
    machine.devices[0].power_w(70)
    machine.devices[0].utilization(50)
    machine.devices[0].memory_used(15 * GIB)
    view = terminal(machine, "--watch", "--interval", "0.2")
    plain = view.read_until(lambda plain: plain.count("driver 550") >= 4 and "curves" in last_view(plain))
    code = view.interrupt()
    first, second = (last_view(plain, start) for start in ("GPU-7e0a5700", "GPU-3b1c90de"))
    assert re.fullmatch(r"GPU-7e0a5700 +█+ +▅+ +█+ +300/405 MHz", first)
    assert re.fullmatch(r"GPU-3b1c90de +▁+ +▁+ +▂+ +300/405 MHz", second)
    assert code == 130
    assert "Traceback" not in view.plain
    assert view.said.rindex("\x1b[?25h") > view.said.rindex("\x1b[?25l"), "the cursor is back"


def test_a_stub_gpu_lost_in_a_terminal_is_shown_as_lost_and_the_log_stays_out_of_the_view(
    stub: Stub, terminal: Callable[..., Terminal]
) -> None:
    machine = stub(T4_X2)
    view = terminal(machine, "--watch", "--interval", "0.2")
    view.read_until(lambda plain: "curves" in plain)
    machine.devices[1].lose()
    view.read_until(lambda plain: "Tesla T4 lost" in plain and "it does not answer" in last_view(plain))
    machine.devices[0].power_w(55)
    view.read_until(lambda plain: "55/70 W" in last_view(plain))
    assert "its figures pause" not in view.plain
    assert view.interrupt() == 130

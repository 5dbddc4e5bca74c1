"""Moments of a generation: the host's on a CPU, and those that a device notes itself; a simulated one here."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.transformers.step_clock import DeviceClock, HostClock, step_clock


class Device:
    """Does what it is asked later, in order, at moments that are known. Milliseconds are floats, as with CUDA."""

    def __init__(self, latencies_ns: list[int]) -> None:
        self.now_ns = 0
        self.busy_until_ns = 0
        self.latencies = iter(latencies_ns)
        self.waits = 0

    def record(self) -> Event:
        self.busy_until_ns = max(self.busy_until_ns, self.now_ns) + next(self.latencies, 0)
        return Event(self, self.busy_until_ns)


class Event:
    def __init__(self, device: Device, at_ns: int) -> None:
        self.device, self.at_ns = device, at_ns

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.now_ns = max(self.device.now_ns, self.at_ns)

    def elapsed_time(self, later: Event) -> float:
        return (later.at_ns - self.at_ns) * 1e-6


@given(st.lists(st.integers(0, 10**9), max_size=20))
def test_a_device_tells_when_it_got_there_and_not_when_it_was_asked(latencies):
    device = Device(latencies)
    clock = DeviceClock(device.record, lambda: device.now_ns)
    for _ in latencies:
        clock.mark()
    assert device.waits == 0
    expected = [sum(latencies[: index + 1]) for index in range(len(latencies))]
    assert clock.read() == expected
    assert device.waits == bool(latencies)


def test_a_device_that_is_asked_for_nothing_is_not_waited_for():
    device = Device([])
    assert DeviceClock(device.record, lambda: device.now_ns).read() == []
    assert device.waits == 0


def test_a_host_notes_its_own_time():
    times = iter([3, 5, 9])
    clock = HostClock(lambda: next(times))
    assert clock.read() == []
    for _ in range(3):
        clock.mark()
    assert clock.read() == [3, 5, 9]


@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_what_has_no_events_is_timed_from_the_host(kind, monkeypatch):
    if kind == "meta":
        monkeypatch.setattr(torch, "get_device_module", lambda _kind: object())
    assert isinstance(step_clock(torch.device(kind)), HostClock)


def test_an_accelerator_is_asked_on_the_stream_that_it_works_on(monkeypatch):
    recorded = []

    class Stamp:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            recorded.append(stream)

    class Accelerator:
        Event = Stamp

        @staticmethod
        def current_stream(device: torch.device) -> str:
            return f"stream of {device}"

    monkeypatch.setattr(torch, "get_device_module", lambda _kind: Accelerator)
    clock = step_clock(torch.device("cuda", 1))
    assert isinstance(clock, DeviceClock)
    clock.mark()
    clock.mark()
    assert recorded == ["stream of cuda:1"] * 2

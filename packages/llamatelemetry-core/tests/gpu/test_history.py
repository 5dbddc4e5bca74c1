from __future__ import annotations

import os
import struct
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.gpu.device import FastReading
from llamatelemetry.gpu.history import SampleRing
from llamatelemetry.gpu.snapshot import Sample

UUID = "GPU-1"

shares = st.none() | st.floats(0, 1)
counters = st.none() | st.integers(0, 2**63 - 1)
reasons = st.none() | st.lists(st.sampled_from(["sw_power_cap", "hw_slowdown", "idle"]), unique=True).map(tuple)
readings = st.builds(
    FastReading,
    memory_used_bytes=counters,
    utilization=shares,
    memory_controller_utilization=shares,
    power_w=st.none() | st.floats(0, 1e4),
    energy_mj=counters,
)
steps = st.tuples(
    st.integers(0, 5), readings, st.none() | st.floats(-50, 150, allow_nan=False, allow_subnormal=False), reasons
)


def sample(monotonic_ns: int, **figures: float) -> Sample:
    return Sample(uuid=UUID, monotonic_ns=monotonic_ns, fast=FastReading(**figures))


@given(st.integers(1, 12), st.lists(steps, max_size=40), st.integers(-2, 120), st.integers(-2, 120))
def test_a_ring_answers_like_a_list_that_forgets_its_oldest(capacity, written, start_ns, end_ns) -> None:
    ring, model, now_ns = SampleRing(UUID, capacity), [], 0
    for step_ns, fast, temperature_c, throttle_reasons in written:
        now_ns += step_ns
        taken = Sample(
            uuid=UUID,
            monotonic_ns=now_ns,
            fast=fast,
            temperature_c=temperature_c,
            throttle_reasons=throttle_reasons,
        )
        ring.append(taken)
        model = [*model, taken][-capacity:]
        assert ring.latest == taken
    assert len(ring) == len(model)
    assert ring.between(start_ns, end_ns) == [each for each in model if start_ns <= each.monotonic_ns <= end_ns]
    assert ring.between(0, now_ns) == model


def test_an_empty_ring_has_no_latest_sample_and_nothing_between() -> None:
    ring = SampleRing(UUID, 3)
    assert ring.latest is None
    assert ring.between(-(2**62), 2**62) == []


def test_a_ring_takes_its_memory_at_once_and_no_more_later() -> None:
    ring = SampleRing(UUID, 100)
    before = sys.getsizeof(ring._records)
    for at_ns in range(1000):
        ring.append(sample(at_ns, memory_used_bytes=at_ns))
    assert sys.getsizeof(ring._records) == before
    assert len(ring) == 100


def test_a_figure_that_no_driver_could_mean_is_refused_and_leaves_what_is_kept_whole() -> None:
    ring = SampleRing(UUID, 2)
    kept = [sample(1, energy_mj=10), sample(2, energy_mj=20)]
    for each in kept:
        ring.append(each)
    with pytest.raises(struct.error):
        ring.append(sample(3, energy_mj=2**64 - 1))
    assert ring.between(0, 10) == kept


def test_more_kinds_of_throttling_than_a_record_can_name_are_told_as_unknown() -> None:
    ring = SampleRing(UUID, 300)
    taken = [Sample(uuid=UUID, monotonic_ns=n, throttle_reasons=(f"reason_{n}",)) for n in range(300)]
    for each in taken:
        ring.append(each)
    told = ring.between(0, 300)
    assert told[:255] == taken[:255]
    assert {each.throttle_reasons for each in told[255:]} == {None}


def test_whoever_reads_while_another_writes_sees_samples_whole_and_in_order() -> None:
    ring, writing = SampleRing(UUID, 64), threading.Event()

    def write() -> None:
        for n in range(20_000):
            ring.append(sample(n, memory_used_bytes=n, energy_mj=n, power_w=float(n)))
        writing.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not writing.is_set():
        seen = ring.between(0, 2**62)
        times = [each.monotonic_ns for each in seen]
        assert times == list(range(times[0], times[0] + len(times))) if times else True
        for each in seen:
            assert each == sample(
                each.monotonic_ns,
                memory_used_bytes=each.monotonic_ns,
                energy_mj=each.monotonic_ns,
                power_w=float(each.monotonic_ns),
            )
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_reads_what_its_parent_sampled_even_if_a_thread_held_the_lock() -> None:
    ring = SampleRing(UUID, 4)
    ring.append(sample(1))
    with ring._lock:
        child = os.fork()
        if child == 0:
            ring.after_fork()
            os._exit(0 if ring.latest == sample(1) else 1)
    assert os.waitpid(child, 0)[1] == 0

from __future__ import annotations

import pytest

from llamatelemetry.llama.cpu import MAX_THREADS, inference_threads, missing_features

MODERN = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma f16c bmi1 bmi2\n"
OLD = "processor\t: 0\nflags\t\t: fpu sse2 avx f16c\n"


def test_a_modern_cpu_lacks_nothing():
    assert missing_features(MODERN, "x86_64") == ()


def test_an_old_cpu_lacks_what_its_flags_do_not_name():
    assert missing_features(OLD, "x86_64") == ("avx2", "fma", "bmi2")


def test_a_flag_counts_only_as_a_whole_word():
    assert missing_features("flags : avx2x fma4 f16c bmi2", "x86_64") == ("avx2", "fma")


def test_other_architectures_need_no_x86_features():
    assert missing_features(OLD, "aarch64") == ()


@pytest.mark.parametrize("text", ["", "processor : 0\n", "no colon at all"])
def test_a_cpuinfo_without_flags_proves_nothing(text):
    assert missing_features(text, "x86_64") == ()


def test_the_cpu_this_runs_on_has_what_the_embedded_runtime_needs():
    assert missing_features() == ()


def test_one_core_is_left_to_the_application():
    assert inference_threads(cpus=range(4), siblings=str, quota=4.0) == 3


def test_hardware_threads_of_one_core_count_once():
    assert inference_threads(cpus=range(8), siblings=lambda cpu: f"{cpu % 4},{cpu % 4 + 4}", quota=8.0) == 3


def test_cpus_without_topology_count_as_cores():
    assert inference_threads(cpus=range(6), siblings=lambda _cpu: None, quota=6.0) == 5


def test_a_control_group_with_less_time_than_cores_decides():
    assert inference_threads(cpus=range(64), siblings=str, quota=3.0) == 2


@pytest.mark.parametrize(("cpus", "threads"), [(range(1), 1), (range(2), 1), (range(256), MAX_THREADS)])
def test_threads_stay_between_one_and_the_cap(cpus, threads):
    assert inference_threads(cpus=cpus, siblings=str, quota=1000.0) == threads


def test_a_fraction_of_a_cpu_is_still_one_thread():
    assert inference_threads(cpus=range(8), siblings=str, quota=0.2) == 1


def test_this_machine_gets_at_least_one_thread():
    assert 1 <= inference_threads() <= MAX_THREADS

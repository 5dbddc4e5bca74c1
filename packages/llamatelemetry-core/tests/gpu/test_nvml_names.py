"""Names of the reasons for which clocks are held down."""

from __future__ import annotations

import pynvml
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.gpu.nvml_names import throttle_reasons


def test_no_reason_has_no_name_and_idleness_is_none() -> None:
    assert throttle_reasons(0) == throttle_reasons(pynvml.nvmlClocksThrottleReasonGpuIdle) == ()


def test_names_are_those_of_the_binding() -> None:
    prefix = "nvmlClocksThrottleReason"
    for constant, mask in vars(pynvml).items():
        word = constant.removeprefix(prefix)
        if word != constant and word not in {"None", "All", "GpuIdle", "Unknown", "UserDefinedClocks"}:
            (name,) = throttle_reasons(mask)
            assert name.replace("_", "") == word.lower()


def test_a_reason_without_a_name_is_shown_by_its_bit() -> None:
    assert throttle_reasons(0x4 | 0x800) == ("sw_power_cap", "reason_0x800")


@given(st.integers(0, 2**64 - 1))
def test_every_bit_but_idleness_has_a_name_of_its_own(bits: int) -> None:
    names = throttle_reasons(bits)
    assert len(set(names)) == len(names) == (bits & ~1).bit_count()

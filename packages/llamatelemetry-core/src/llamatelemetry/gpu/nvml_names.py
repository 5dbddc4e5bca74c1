"""NVML's words for why a GPU's clocks are held down."""

from __future__ import annotations

from functools import cache
from typing import Final

# nvmlClocksEventReasons of nvml.h, https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html;
# the last two are in newer headers only, so the table is ours and not the binding's.
_REASONS: Final = {
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
_IDLE: Final = 0x001


@cache
def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Names of the reasons in NVML's bit mask, lowest bit first.

    A GPU with nothing to do lowers its clocks too, and that holds nobody back: ``gpu_idle`` is left out.
    A bit that has no name yet is shown as ``reason_0x…``.
    """
    bits &= ~_IDLE
    masks = (1 << place for place in range(bits.bit_length()))
    return tuple(_REASONS.get(mask, f"reason_{mask:#x}") for mask in masks if bits & mask)

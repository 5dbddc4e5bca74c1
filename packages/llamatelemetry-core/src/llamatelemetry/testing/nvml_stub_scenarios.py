"""Machines that the NVML stub can stand for.

They follow published data sheets and what the driver is known to refuse on such devices. They are
kinds of machines to test against, and nothing read from them is a measurement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llamatelemetry.testing.nvml_stub_devices import StubDevice, StubMig, StubNvlink

_GIB: Final = 2**30
_XID: Final = 0x8
"""``nvmlEventTypeXidCriticalError``: the only event that such a device knows."""


def _t4(index: int) -> StubDevice:
    return StubDevice(
        name="Tesla T4",
        uuid=f"GPU-7e0a5700-0000-4000-8000-00000000000{index}",
        compute_capability=(7, 5),
        memory_total_bytes=15_360 * 2**20,
        pci_bus_id=f"00000000:00:0{4 + index}.0",
        idle_power_w=10.0,
        counter_period_s=0.1,
        counter_phase_s=0.037 * index,
        instant_power=False,
        temperature_c=38 + index,
        slowdown_c=93,
        shutdown_c=96,
        max_clocks_mhz=(1590, 1590, 5001, 1470),
        power_limit_w=70.0,
        enforced_power_limit_w=70.0,
        power_limits_w=(60.0, 70.0),
        ecc=True,
        serial=f"13245200{index}",
        vbios="90.04.A7.00.01",
        brand=14,
        cores=2560,
        multiprocessors=40,
        memory_bus_bits=256,
        pci_device_id=0x1EB810DE,
    )


TESLA_T4_X2: Final = (_t4(0), _t4(1))
"""Two T4 in one virtual machine, as notebooks offer: energy counter, no instant power, no NVLink, no MIG."""

A100_MIG: Final = (
    StubDevice(
        name="NVIDIA A100-SXM4-40GB",
        uuid="GPU-a1005440-0000-4000-8000-000000000000",
        compute_capability=(8, 0),
        memory_total_bytes=40_960 * 2**20,
        pci_bus_id="00000000:07:00.0",
        idle_power_w=50.0,
        counter_period_s=0.02,
        temperature_c=32,
        memory_temperature_c=36,
        slowdown_c=89,
        shutdown_c=92,
        clocks_mhz=(210, 210, 1215, 585),
        max_clocks_mhz=(1410, 1410, 1215, 1290),
        power_limit_w=400.0,
        enforced_power_limit_w=400.0,
        power_limits_w=(100.0, 400.0),
        ecc=True,
        pcie=(4, 16),
        mig=(
            StubMig(
                uuid="MIG-a1005440-0000-5000-8000-000000000001",
                profile="3g.20gb",
                gpu_instance=1,
                memory_total_bytes=19_968 * 2**20,
                multiprocessors=42,
            ),
            StubMig(
                uuid="MIG-a1005440-0000-5000-8000-000000000002",
                profile="2g.10gb",
                gpu_instance=5,
                memory_total_bytes=9_856 * 2**20,
                multiprocessors=28,
            ),
            StubMig(
                uuid="MIG-a1005440-0000-5000-8000-000000000003",
                profile="1g.5gb",
                gpu_instance=13,
                memory_total_bytes=4_864 * 2**20,
                multiprocessors=14,
            ),
        ),
        cpus=tuple(range(48, 64)),
        numa_node=3,
        socket_cpus=tuple(range(64)),
        serial="1560320000001",
        vbios="92.00.19.00.01",
        cores=6912,
        multiprocessors=108,
        memory_bus_bits=5120,
        pci_device_id=0x20B010DE,
    ),
)
"""One A100 with three MIG instances: no utilization, and instances tell little more than their memory."""


def _h100(index: int, links: Iterable[StubNvlink] = ()) -> StubDevice:
    node = index // 4
    return StubDevice(
        name="NVIDIA H100 80GB HBM3",
        uuid=f"GPU-41005aa0-0000-4000-8000-00000000000{index}",
        compute_capability=(9, 0),
        memory_total_bytes=81_559 * 2**20,
        pci_bus_id=f"00000000:{0x1B + 0x10 * index:02X}:00.0",
        idle_power_w=70.0,
        counter_period_s=0.1,
        counter_phase_s=0.011 * index,
        temperature_c=30 + index,
        memory_temperature_c=42,
        slowdown_c=92,
        shutdown_c=95,
        clocks_mhz=(345, 345, 2619, 765),
        max_clocks_mhz=(1980, 1980, 2619, 1545),
        power_limit_w=700.0,
        enforced_power_limit_w=700.0,
        power_limits_w=(200.0, 700.0),
        ecc=True,
        pcie=(5, 16),
        mig=(),
        nvlinks=tuple(links) or None,
        pcie_path=(f"host bridge {index}", f"switch {index}"),
        numa_node=node,
        cpus=tuple(range(48 * node, 48 * node + 48)),
        peer_access=True,
        serial=f"165042300000{index}",
        vbios="96.00.74.00.01",
        cores=16_896,
        multiprocessors=132,
        memory_bus_bits=5120,
        pci_device_id=0x233010DE,
    )


H100: Final = (_h100(0),)
"""One H100 by itself: instant power and energy counter, MIG off, no NVLink in use."""

H100_X8: Final = tuple(
    _h100(
        index,
        (
            StubNvlink(remote=f"00000000:{0x05 + link % 4:02X}:00.0", to_switch=True, version=7, speed_mbps=26_562)
            for link in range(18)
        ),
    )
    for index in range(8)
)
"""Eight H100 on two processors, all joined by NVSwitches."""


def _a100_of_four(index: int) -> StubDevice:
    bus = ("01", "47", "81", "C2")
    return StubDevice(
        name="NVIDIA A100-SXM4-80GB",
        uuid=f"GPU-a1005480-0000-4000-8000-00000000000{index}",
        compute_capability=(8, 0),
        memory_total_bytes=81_920 * 2**20,
        pci_bus_id=f"00000000:{bus[index]}:00.0",
        idle_power_w=50.0,
        counter_period_s=0.02,
        counter_phase_s=0.005 * index,
        memory_temperature_c=40,
        clocks_mhz=(210, 210, 1593, 585),
        max_clocks_mhz=(1410, 1410, 1593, 1290),
        power_limit_w=275.0,
        enforced_power_limit_w=275.0,
        power_limits_w=(100.0, 275.0),
        ecc=True,
        pcie=(4, 16),
        mig=(),
        nvlinks=tuple(
            StubNvlink(remote=f"00000000:{bus[other]}:00.0") for other in range(4) if other != index for _ in range(4)
        ),
        pcie_path=(f"host bridge {index}",),
        cpus=tuple(range(64)),
        peer_access=True,
        cores=6912,
        multiprocessors=108,
        memory_bus_bits=5120,
        pci_device_id=0x20B210DE,
    )


A100_X4: Final = tuple(_a100_of_four(index) for index in range(4))
"""Four A100 on one processor, each pair joined by four NVLinks."""

LAPTOP: Final = (
    StubDevice(
        name="NVIDIA GeForce GTX 1060",
        uuid="GPU-1a970b00-0000-4000-8000-000000000000",
        compute_capability=(6, 1),
        memory_total_bytes=6 * _GIB,
        pci_bus_id="00000000:01:00.0",
        idle_power_w=8.0,
        energy_counter=False,
        instant_power=False,
        memory_used_bytes=312 * 2**20,
        temperature_c=47,
        slowdown_c=94,
        shutdown_c=99,
        clocks_mhz=(139, 139, 405, 544),
        max_clocks_mhz=(1911, 1911, 4004, 1708),
        process_utilization=False,
        event_types=_XID,
        cpus=tuple(range(8)),
        brand=5,
        cores=1280,
        multiprocessors=10,
        memory_bus_bits=192,
        pci_device_id=0x1C2010DE,
    ),
)
"""A Pascal laptop: power but no energy counter, no power limit, no ECC, no instant power."""

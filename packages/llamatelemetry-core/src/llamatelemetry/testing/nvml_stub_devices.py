"""What the NVML stub can be: devices as a test describes them, and what the model makes of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

_RECORDED: Final = 0x1 | 0x2 | 0x8
"""Single and double bit ECC errors and Xids, as bits of ``nvmlEventType…``."""
_ALL_REASONS: Final = 0x1FF
_ECC_KINDS: Final = ("corrected", "uncorrected")


@dataclass(frozen=True, slots=True, kw_only=True)
class StubMig:
    """One MIG instance.

    Attributes:
        uuid: ``MIG-…``.
        profile: Such as ``3g.20gb``; its slices and name follow from it.
        gpu_instance: GPU instance id.
        memory_total_bytes: Memory it has.
        memory_used_bytes: Memory in use at first.
        multiprocessors: How many it has.
        compute_instance: Compute instance id within the GPU instance.
    """

    uuid: str
    profile: str
    gpu_instance: int
    memory_total_bytes: int
    memory_used_bytes: int = 0
    multiprocessors: int = 14
    compute_instance: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StubNvlink:
    """One NVLink of a device.

    Attributes:
        remote: PCI bus id of the other end.
        to_switch: Whether that is an NVSwitch rather than a GPU.
        version: What the driver calls its version: 5 for NVLink 3.0 and 7 for 4.0, as real drivers have been seen to.
        speed_mbps: Speed of the link in one direction.
        active: Whether it is up.
    """

    remote: str
    to_switch: bool = False
    version: int = 5
    speed_mbps: int = 25_781
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StubProcess:
    """One process on a device.

    Attributes:
        pid: Its id.
        memory_bytes: GPU memory it holds; None for what the driver says in containers: not available.
        utilization: Percent of the time in which its kernels ran; None leaves it out of the samples.
        memory_utilization: Percent of the time in which it used memory.
        graphics: In the list of graphics processes instead of compute.
        gpu_instance: MIG GPU instance it runs on; None for the whole GPU.
        compute_instance: MIG compute instance; None for the whole GPU.
    """

    pid: int
    memory_bytes: int | None = None
    utilization: int | None = None
    memory_utilization: int = 0
    graphics: bool = False
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StubDevice:
    """One GPU as it starts. What is None, its driver answers NVML_ERROR_NOT_SUPPORTED for.

    Attributes:
        name: For example ``Tesla T4``.
        uuid: ``GPU-…``.
        compute_capability: Major and minor.
        memory_total_bytes: Memory there is.
        pci_bus_id: Such as ``00000000:00:04.0``.
        idle_power_w: Power until the script says otherwise; None for no power readings at all.
        energy_counter: Whether there is one (Volta and later).
        counter_period_s: Time between two steps of the counter; 0 for a counter without steps.
        counter_phase_s: Time of its first step.
        counter_start_mj: What it shows at time zero.
        instant_power: Whether the driver has the fields for average and instant power and
            ``nvmlDeviceGetPowerUsage`` is the mean of the last second (Ampere and later); else it is
            the power of the moment.
        memory_used_bytes: Memory in use at first, what the driver keeps for itself included.
        memory_reserved_bytes: What the driver keeps for itself.
        utilization: Percent for GPU and memory at first; None for a device that does not tell.
        temperature_c: At first.
        memory_temperature_c: Likewise.
        slowdown_c: Temperature at which clocks go down.
        shutdown_c: Temperature at which it goes off.
        clocks_mhz: Graphics, multiprocessors, memory and video at first.
        max_clocks_mhz: Likewise, the highest.
        throttle_reasons: Whether it tells why its clocks are held down.
        power_limit_w: Limit that was set.
        enforced_power_limit_w: Limit in force.
        power_limits_w: Lowest and highest that may be set.
        ecc: Whether ECC is on; None where there is none.
        pcie: Generation and width of the link.
        pcie_throughput: Whether PCIe throughput can be read.
        process_lists: Whether processes are listed.
        process_utilization: Whether utilization per process is sampled.
        event_types: Bits of ``nvmlEventType…`` that can be registered for; None for no events.
        mig: MIG instances; None for a device that cannot be split, () for one where MIG is off.
        mig_max: Most instances it can have.
        mig_power: Whether an instance that is asked for power or energy answers with the whole GPU's,
            as some readers report; else it does not tell.
        nvlinks: Its NVLinks; None for a device without.
        pcie_path: What is between it and the processor, from the host bridge down to the switch it
            hangs on. Devices with the same path share that switch.
        board: Devices with the same board are one card; None for a card of its own.
        numa_node: NUMA node of the processor it is near; None for what a container without
            ``/sys`` says.
        cpus: Processors of that node.
        socket_cpus: Processors of the socket; as ``cpus`` if empty.
        gpu_numa_node: NUMA node that the GPU itself is, on machines where it is one.
        peer_access: Whether it can reach peers' memory over PCIe.
        serial: Board serial number.
        vbios: Firmware version.
        brand: ``NVML_BRAND_…``.
        cores: CUDA cores.
        multiprocessors: Streaming multiprocessors.
        memory_bus_bits: Width of the memory bus.
        fan_percent: Fan speed; None for passive cooling.
        pci_device_id: Device and vendor as one number.
    """

    name: str
    uuid: str
    compute_capability: tuple[int, int]
    memory_total_bytes: int
    pci_bus_id: str
    idle_power_w: float | None = 10.0
    energy_counter: bool = True
    counter_period_s: float = 0.1
    counter_phase_s: float = 0.0
    counter_start_mj: int = 0
    instant_power: bool = True
    memory_used_bytes: int = 0
    memory_reserved_bytes: int = 0
    utilization: tuple[int, int] | None = (0, 0)
    temperature_c: int | None = 35
    memory_temperature_c: int | None = None
    slowdown_c: int | None = 90
    shutdown_c: int | None = 95
    clocks_mhz: tuple[int, int, int, int] | None = (300, 300, 405, 540)
    max_clocks_mhz: tuple[int, int, int, int] | None = None
    throttle_reasons: bool = True
    power_limit_w: float | None = None
    enforced_power_limit_w: float | None = None
    power_limits_w: tuple[float, float] | None = None
    ecc: bool | None = None
    pcie: tuple[int, int] | None = (3, 16)
    pcie_throughput: bool = True
    process_lists: bool = True
    process_utilization: bool = True
    event_types: int | None = _RECORDED
    mig: tuple[StubMig, ...] | None = None
    mig_max: int = 7
    mig_power: bool = False
    nvlinks: tuple[StubNvlink, ...] | None = None
    pcie_path: tuple[str, ...] = ("host bridge 0",)
    board: str | None = None
    numa_node: int | None = 0
    cpus: tuple[int, ...] = (0, 1, 2, 3)
    socket_cpus: tuple[int, ...] = ()
    gpu_numa_node: int | None = None
    peer_access: bool = False
    serial: str = ""
    vbios: str = ""
    brand: int = 14
    cores: int | None = None
    multiprocessors: int = 0
    memory_bus_bits: int | None = None
    fan_percent: int | None = None
    pci_device_id: int | None = None


def first_figures(device: StubDevice) -> dict[str, int | None]:
    """The figures of the model that the device starts with; those it leaves out, it does not tell."""
    has_power, limit, limits = device.idle_power_w is not None, device.power_limit_w, device.power_limits_w
    volatile = 0 if device.ecc else None
    figures: dict[str, int | None] = {
        "lost": 0,
        "architecture": _architecture(device.compute_capability),
        "board_id": zlib.crc32((device.board or device.pci_bus_id).encode()) & 0xFFFF,
        "brand": device.brand,
        "compute_major": device.compute_capability[0],
        "compute_minor": device.compute_capability[1],
        "cores": device.cores,
        "counter_period_ns": round(device.counter_period_s * 1e9),
        "counter_phase_ns": round(device.counter_phase_s * 1e9),
        "ecc": None if device.ecc is None else int(device.ecc),
        **dict.fromkeys((f"ecc_{kind}{life}" for kind in _ECC_KINDS for life in ("", "_aggregate")), volatile),
        "energy_counter": int(device.energy_counter),
        "event_types": device.event_types,
        "fan_percent": device.fan_percent,
        "gpu_numa_node": device.gpu_numa_node,
        "instant_power": int(device.instant_power),
        "memory_bus_bits": device.memory_bus_bits,
        "memory_reserved": device.memory_reserved_bytes,
        "memory_total": device.memory_total_bytes,
        "memory_used": device.memory_used_bytes,
        "mig_max": None if device.mig is None else device.mig_max,
        "mig_mode": None if device.mig is None else int(len(device.mig) > 0),
        "mig_power": int(device.mig_power),
        "multiprocessors": device.multiprocessors,
        "nvlinks": None if device.nvlinks is None else len(device.nvlinks),
        "nvlink_speed_mbps": device.nvlinks[0].speed_mbps if device.nvlinks else None,
        "pci_device_id": device.pci_device_id,
        "pcie_replays": 0,
        "performance_state": 8,
        "persistence": 1,
        "power": int(has_power),
        "power_limit_mw": None if limit is None else round(limit * 1000),
        "power_limit_default_mw": None if limit is None else round(limit * 1000),
        "process_lists": int(device.process_lists),
        "process_utilization": int(device.process_utilization),
        "temperature": device.temperature_c,
        "temperature_memory": device.memory_temperature_c,
        "temperature_shutdown": device.shutdown_c,
        "temperature_slowdown": device.slowdown_c,
    }
    if device.enforced_power_limit_w is not None:
        figures["power_limit_enforced_mw"] = round(device.enforced_power_limit_w * 1000)
    if limits is not None:
        figures |= {"power_limit_min_mw": round(limits[0] * 1000), "power_limit_max_mw": round(limits[1] * 1000)}
    if device.utilization is not None:
        figures |= {"utilization_gpu": device.utilization[0], "utilization_memory": device.utilization[1]}
        figures |= {"utilization_encoder": 0, "utilization_decoder": 0}
    if device.throttle_reasons:
        figures |= {"throttle_reasons": 0, "throttle_reasons_supported": _ALL_REASONS}
    if device.pcie is not None:
        generation, width = device.pcie
        figures |= {"pcie_generation": generation, "pcie_max_generation": generation}
        figures |= {"pcie_width": width, "pcie_max_width": width}
    if device.pcie_throughput:
        figures |= {"pcie_tx_kb_per_s": 0, "pcie_rx_kb_per_s": 0}
    for prefix, clocks in (("clock", device.clocks_mhz), ("clock_max", device.max_clocks_mhz)):
        if clocks is not None:
            names = (f"{prefix}_{clock}" for clock in ("graphics", "sm", "memory", "video"))
            figures |= dict(zip(names, clocks, strict=True))
    return figures


def topology_level(one: StubDevice, other: StubDevice) -> int:
    """What two devices have in common, as ``NVML_TOPOLOGY_…``: from one card (0) to nothing but the system (50)."""
    if one.uuid == other.uuid or (one.board is not None and one.board == other.board):
        return 0
    if one.numa_node != other.numa_node:
        return 50
    shared = 0
    for mine, theirs in zip(one.pcie_path, other.pcie_path, strict=False):
        if mine != theirs:
            break
        shared += 1
    if shared == 0:
        return 40
    if shared == 1:
        return 30
    return 10 if one.pcie_path == other.pcie_path else 20


def p2p_statuses(one: StubDevice, other: StubDevice) -> tuple[int, int, int, int, int]:
    """``NVML_P2P_STATUS_…`` for reading, writing, NVLink, atomics and PCIe between two devices."""
    ok, chipset, no = 0, 1, 5
    over_pcie = ok if one.peer_access and other.peer_access else chipset
    over_nvlink = ok if _linked(one, other) else no
    memory = ok if ok in (over_pcie, over_nvlink) else over_pcie
    return (memory, memory, over_nvlink, over_nvlink, over_pcie)


def _linked(one: StubDevice, other: StubDevice) -> bool:
    mine, theirs = one.nvlinks or (), other.nvlinks or ()
    switches = {link.remote for link in mine if link.to_switch} & {link.remote for link in theirs if link.to_switch}
    return bool(switches) or any(link.remote == other.pci_bus_id for link in mine)


def _architecture(capability: tuple[int, int]) -> int:
    """``NVML_DEVICE_ARCH_…``."""
    exact = {(7, 5): 6, (8, 9): 8}
    return exact.get(capability) or {5: 3, 6: 4, 7: 5, 8: 7, 9: 9, 10: 10, 12: 10}.get(capability[0], 0xFFFFFFFF)

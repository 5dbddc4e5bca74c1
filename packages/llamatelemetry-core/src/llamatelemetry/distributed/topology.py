"""How the GPUs of a machine are linked to each other, to CPUs and to memory: a graph, read from NVML.

Two GPUs that share a model talk no faster than what is between them. Everything here is optional:
in virtual machines and containers, and from older drivers, parts are not told, and the reason is
kept with what lacks them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, combinations
from typing import Any, Final

from llamatelemetry.distributed.inquiry import EMPTY, Inquiry
from llamatelemetry.distributed.nvml_links import NVLink, NVLinkBond, RemoteKind, bond, normal_bus_id, read_nvlinks
from llamatelemetry.distributed.p2p import P2P, read_p2p
from llamatelemetry.errors import UnknownNameError
from llamatelemetry.gpu.device import GPUDevice
from llamatelemetry.gpu.reader import GPUReader

_WORDS: Final = 64
"""Words of 64 bits to ask CPUs in: more than any machine with GPUs has."""

_SCOPE_NODE: Final = 0  # NVML_AFFINITY_SCOPE_NODE


class LinkKind(StrEnum):
    """What is between two GPUs, nearest first."""

    NVLINK = "NV"
    PIX = "PIX"
    PXB = "PXB"
    PHB = "PHB"
    NODE = "NODE"
    SYS = "SYS"
    UNKNOWN = "?"


_KINDS: Final[Mapping[int, LinkKind]] = {
    0: LinkKind.PIX,  # Two GPUs on one board, which meet at a switch on it.
    10: LinkKind.PIX,
    20: LinkKind.PXB,
    30: LinkKind.PHB,
    40: LinkKind.NODE,
    50: LinkKind.SYS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What is between two GPUs; the same in both directions.

    Attributes:
        a: UUID of the one that is listed first.
        b: UUID of the other.
        path: The way over PCIe, which is there beside NVLinks too.
        nvlink: The NVLinks between them; None for none.
        p2p: What they can do with each other's memory.
        absences: What was not told, to the reason.
    """

    a: str
    b: str
    path: LinkKind = LinkKind.UNKNOWN
    nvlink: NVLinkBond | None = None
    p2p: P2P = field(default_factory=P2P)
    absences: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> LinkKind:
        """NVLink where there is any, else the way over PCIe."""
        return self.path if self.nvlink is None else LinkKind.NVLINK

    @property
    def label(self) -> str:
        """The kind as ``nvidia-smi topo -m`` writes it, such as ``NV12`` or ``PHB``."""
        return self.path.value if self.nvlink is None else f"{LinkKind.NVLINK.value}{self.nvlink.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyGPU:
    """One whole GPU and what it is near to. None is not told.

    Attributes:
        index: NVML's index, as ``nvidia-smi`` counts.
        uuid: Its name everywhere else.
        name: For example ``Tesla T4``.
        pci_bus_id: For example ``00000000:00:04.0``.
        instances: UUIDs of its MIG instances that are visible; empty for a GPU that is not split.
        cpus: CPUs near it.
        numa_nodes: NUMA nodes of the machine's memory near it.
        memory_numa_node: The NUMA node that its own memory is, where CPUs can reach it like theirs.
        nvlinks: Its active NVLinks, wherever they lead.
        absences: What was not told, to the reason.
    """

    index: int
    uuid: str
    name: str
    pci_bus_id: str | None = None
    instances: tuple[str, ...] = ()
    cpus: tuple[int, ...] | None = None
    numa_nodes: tuple[int, ...] | None = None
    memory_numa_node: int | None = None
    nvlinks: tuple[NVLink, ...] = ()
    absences: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """``GPU0`` and so on."""
        return f"GPU{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """A NUMA node of the machine, as far as GPUs tell of it.

    Attributes:
        number: The kernel's number of it.
        cpus: Its CPUs.
        gpus: UUIDs of the GPUs near it.
    """

    number: int
    cpus: tuple[int, ...]
    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The GPUs of a machine that are visible, and the links between every two of them.

    Attributes:
        gpus: In the order of their index.
        links: One for each two of them.
    """

    gpus: tuple[TopologyGPU, ...] = ()
    links: tuple[Link, ...] = ()

    @property
    def switches(self) -> tuple[str, ...]:
        """PCI addresses of the NVSwitches that the GPUs are linked to."""
        ends = chain.from_iterable(gpu.nvlinks for gpu in self.gpus)
        return tuple(sorted({end.remote_bus_id or "" for end in ends if end.remote is RemoteKind.SWITCH} - {""}))

    @property
    def numa_nodes(self) -> tuple[NumaNode, ...]:
        """The NUMA nodes that GPUs are near to. One that shares a GPU with another has no CPUs told."""
        numbers = sorted(set(chain.from_iterable(gpu.numa_nodes or () for gpu in self.gpus)))
        return tuple(
            NumaNode(
                number=number,
                cpus=_union(gpu.cpus or () for gpu in self.gpus if gpu.numa_nodes == (number,)),
                gpus=tuple(gpu.uuid for gpu in self.gpus if number in (gpu.numa_nodes or ())),
            )
            for number in numbers
        )

    def gpu(self, uuid: str) -> TopologyGPU:
        """The GPU of that UUID, or the one that the MIG instance of that UUID is a part of.

        Raises:
            UnknownNameError: There is none.
        """
        for gpu in self.gpus:
            if uuid == gpu.uuid or uuid in gpu.instances:
                return gpu
        raise UnknownNameError("GPU", uuid, tuple(gpu.uuid for gpu in self.gpus))

    def link(self, a: str, b: str) -> Link | None:
        """What is between two GPUs, or MIG instances, in either order; None if they are one GPU.

        Raises:
            UnknownNameError: There is no such GPU.
        """
        wanted = {self.gpu(a).uuid, self.gpu(b).uuid}
        return next((link for link in self.links if {link.a, link.b} == wanted), None)


def read_topology(nvml: GPUReader) -> Topology:
    """Reads how the visible GPUs are linked; empty while NVML is not open.

    What the driver does not tell is left out, with the reason. Takes about nine hundred calls of NVML
    for eight GPUs behind NVSwitches, so read it once; it does not change while the machine runs.

    Args:
        nvml: An open reader, for the devices that it shows.
    """
    gpus, handles = [], {}
    for uuid, devices in sorted(_whole_gpus(nvml.devices).items(), key=lambda item: item[1][0].index):
        inquiry = Inquiry()
        handles[uuid] = inquiry.ask("handle", "nvmlDeviceGetHandleByUUID", uuid)
        gpus.append(_read_gpu(inquiry, handles[uuid], uuid, devices))
    links = [_read_link(a, handles[a.uuid], b, handles[b.uuid]) for a, b in combinations(gpus, 2)]
    return Topology(gpus=tuple(gpus), links=tuple(links))


def _whole_gpus(devices: Iterable[GPUDevice]) -> dict[str, list[GPUDevice]]:
    """UUIDs of whole GPUs to the devices that they are or that are part of them."""
    whole: dict[str, list[GPUDevice]] = {}
    for device in devices:
        whole.setdefault(device.parent_uuid or device.uuid, []).append(device)
    return whole


def _read_gpu(inquiry: Inquiry, handle: Any | None, uuid: str, devices: list[GPUDevice]) -> TopologyGPU:
    itself = next((device for device in devices if device.uuid == uuid), None)
    name = itself.name if itself else inquiry.ask("name", "nvmlDeviceGetName", handle)
    bus_id = devices[0].pci_bus_id
    if bus_id is None:
        pci = inquiry.ask("pci_bus_id", "nvmlDeviceGetPciInfo", handle)
        bus_id = None if pci is None else _text(pci.busId)
    capability = next((device.compute_capability for device in devices if device.compute_capability), None)
    node = inquiry.ask("memory_numa_node", "nvmlDeviceGetNumaNodeId", handle)
    return TopologyGPU(
        index=devices[0].index,
        uuid=uuid,
        name=_text(name) if name else devices[0].name,
        pci_bus_id=bus_id,
        instances=tuple(device.uuid for device in devices if device.uuid != uuid),
        cpus=_cpus(inquiry, handle),
        numa_nodes=_set(inquiry, "numa_nodes", "nvmlDeviceGetMemoryAffinity", handle, _WORDS, _SCOPE_NODE),
        memory_numa_node=node if node is not None and node >= 0 else None,
        nvlinks=read_nvlinks(inquiry, handle, capability),
        absences=inquiry.absences,
    )


def _read_link(a: TopologyGPU, a_handle: Any | None, b: TopologyGPU, b_handle: Any | None) -> Link:
    inquiry = Inquiry()
    level = inquiry.ask("path", "nvmlDeviceGetTopologyCommonAncestor", a_handle, b_handle)
    return Link(
        a=a.uuid,
        b=b.uuid,
        path=_KINDS.get(level, LinkKind.UNKNOWN),
        nvlink=bond(a.nvlinks, _normal(a), b.nvlinks, _normal(b)),
        p2p=read_p2p(inquiry, a_handle, b_handle),
        absences=inquiry.absences,
    )


def _cpus(inquiry: Inquiry, handle: Any | None) -> tuple[int, ...] | None:
    """CPUs of the GPU's NUMA node; from a driver too old for that, those that it calls ideal."""
    function = "nvmlDeviceGetCpuAffinity"
    cpus = _set(inquiry, "cpus", f"{function}WithinScope", handle, _WORDS, _SCOPE_NODE)
    if cpus is None:
        cpus = _set(inquiry, "cpus", function, handle, _WORDS)
        if cpus is not None:
            inquiry.answered("cpus")
    return cpus


def _set(inquiry: Inquiry, figure: str, function: str, *arguments: Any) -> tuple[int, ...] | None:
    """A set that NVML answers with as an array of words; None if it is empty, which says nothing."""
    words = inquiry.ask(figure, function, *arguments)
    if words is None:
        return None
    mask = int.from_bytes(bytes(words), "little")
    if not mask:
        inquiry.absent(figure, f"{function}: {EMPTY}")
        return None
    return tuple(number for number in range(mask.bit_length()) if mask >> number & 1)


def _union(sets: Iterable[Iterable[int]]) -> tuple[int, ...]:
    return tuple(sorted(set(chain.from_iterable(sets))))


def _normal(gpu: TopologyGPU) -> str | None:
    return None if gpu.pci_bus_id is None else normal_bus_id(gpu.pci_bus_id)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value

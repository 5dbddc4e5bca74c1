"""A topology in plain text: the matrix that ``nvidia-smi topo -m`` has made familiar, and what it does not say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from llamatelemetry.distributed.cpu_list import format_cpu_list
from llamatelemetry.distributed.p2p import P2P, P2PStatus
from llamatelemetry.distributed.proximity import islands
from llamatelemetry.distributed.topology import Link, LinkKind, Topology, TopologyGPU

NO_GPU: Final = "No GPU is visible."
_ITSELF: Final = "X"
_NOT_TOLD: Final = "N/A"
_GAP: Final = "  "

_KINDS: Final = (
    (_ITSELF, "the GPU itself"),
    ("NV#", "that many NVLinks, straight or through NVSwitches"),
    (LinkKind.PIX.value, "PCIe with one switch on the way at most"),
    (LinkKind.PXB.value, "PCIe with several switches, and no host bridge"),
    (LinkKind.PHB.value, "PCIe through a host bridge, so through a CPU"),
    (LinkKind.NODE.value, "PCIe through several host bridges of one NUMA node"),
    (LinkKind.SYS.value, "PCIe and what joins NUMA nodes, so from one socket to another"),
)
_UNKNOWN: Final = (LinkKind.UNKNOWN.value, "the driver does not say")

_CODES: Final = {
    P2PStatus.OK: "OK",
    P2PStatus.CHIPSET_NOT_SUPPORTED: "CNS",
    P2PStatus.GPU_NOT_SUPPORTED: "GNS",
    P2PStatus.TOPOLOGY_NOT_SUPPORTED: "TNS",
    P2PStatus.DISABLED: "DR",
    P2PStatus.NOT_SUPPORTED: "NS",
    P2PStatus.UNKNOWN: "U",
}
_STATUSES: Final = (
    (_ITSELF, "the GPU itself"),
    ("OK", "each reads and writes the other's memory"),
    ("CNS", "the chipset does not let them"),
    ("GNS", "a GPU cannot"),
    ("TNS", "they are too far apart"),
    ("DR", "a setting of the driver disables it"),
    ("NS", "it is not supported"),
    ("U", "the driver does not know"),
    (_NOT_TOLD, "the driver does not say"),
)

_WORTH_SAYING: Final = ("handle", "cpus", "numa_nodes", "path", "nvlink.remote", "p2p.read")
"""What is missed where it is absent. A GPU without NVLink refuses the rest, and nothing is wrong."""


def render_topology(topology: Topology) -> str:
    """The matrix of links with each GPU's CPUs and NUMA nodes, the legend, and remarks.

    Args:
        topology: The GPUs.
    """
    if not topology.gpus:
        return NO_GPU
    legend = _KINDS + ((_UNKNOWN,) if any(link.kind is LinkKind.UNKNOWN for link in topology.links) else ())
    return "\n".join([render_matrix(topology), "", *_legend("Legend, nearest first:", legend), *_remarks(topology)])


def render_matrix(topology: Topology) -> str:
    """The matrix alone: what is between every two GPUs, and what each is near to.

    Args:
        topology: The GPUs.
    """
    return _matrix(
        topology,
        lambda link: link.label,
        {
            "CPU Affinity": lambda gpu: _listed(gpu.cpus),
            "NUMA Affinity": lambda gpu: _listed(gpu.numa_nodes),
            "GPU NUMA ID": lambda gpu: _NOT_TOLD if gpu.memory_numa_node is None else str(gpu.memory_numa_node),
        },
    )


def render_p2p(topology: Topology) -> str:
    """The matrix of who reaches whose memory, and the legend.

    Args:
        topology: The GPUs.
    """
    if not topology.gpus:
        return NO_GPU
    return "\n".join([_matrix(topology, lambda link: _code(link.p2p), {}), "", *_legend("Legend:", _STATUSES)])


def _matrix(topology: Topology, cell: Callable[[Link], str], columns: dict[str, Callable[[TopologyGPU], str]]) -> str:
    cells = {frozenset((link.a, link.b)): cell(link) for link in topology.links}
    rows = [["", *(gpu.label for gpu in topology.gpus), *columns]]
    for gpu in topology.gpus:
        links = [cells.get(frozenset((gpu.uuid, other.uuid)), f" {_ITSELF}") for other in topology.gpus]
        rows.append([gpu.label, *links, *(column(gpu) for column in columns.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_GAP.join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _legend(title: str, lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield title
    width = max(len(code) for code, _ in lines)
    for code, meaning in lines:
        yield f"{_GAP}{code.ljust(width)}{_GAP}{meaning}"


def _remarks(topology: Topology) -> list[str]:
    lines = [*_groups(topology), *_nvlinks(topology), *_instances(topology), *_absences(topology)]
    return ["", *lines] if lines else []


def _groups(topology: Topology) -> Iterator[str]:
    """Who is near to whom, where that parts the GPUs into groups."""
    labels = {gpu.uuid: gpu.label for gpu in topology.gpus}
    groups = islands(topology)
    if 1 < len(groups) < len(topology.gpus):
        named = (" ".join(labels[uuid] for uuid in group) for group in groups)
        yield f"Near each other: {'; '.join(named)}"


def _nvlinks(topology: Topology) -> Iterator[str]:
    """What each kind of bond is made of, as far as the driver tells."""
    for label, bond in {link.label: link.nvlink for link in topology.links if link.nvlink is not None}.items():
        generation = "" if bond.generation is None else f" of generation {bond.generation}"
        speed = "" if bond.bytes_per_s is None else f", {bond.bytes_per_s / 1e9:.0f} GB/s each way together"
        if generation or speed:
            yield f"{label}: NVLinks{generation}{speed}"
    if topology.switches:
        yield f"NVSwitches: {len(topology.switches)}"


def _instances(topology: Topology) -> Iterator[str]:
    for gpu in topology.gpus:
        if gpu.instances:
            yield f"{gpu.label} is split into MIG instances, which do not reach each other: {', '.join(gpu.instances)}"


def _absences(topology: Topology) -> Iterator[str]:
    """Reasons for what is missing, each once, with who lacks it."""
    labels = {gpu.uuid: gpu.label for gpu in topology.gpus}
    lacking: dict[tuple[str, str], list[str]] = {}
    owners = [(gpu.label, gpu.absences) for gpu in topology.gpus]
    owners += [(f"{labels[link.a]}-{labels[link.b]}", link.absences) for link in topology.links]
    for figure in _WORTH_SAYING:
        for owner, absences in owners:
            if figure in absences:
                lacking.setdefault((figure, absences[figure]), []).append(owner)
    for (figure, reason), names in lacking.items():
        yield f"Not told, {figure} of {' '.join(names)}: {reason}"


def _listed(numbers: tuple[int, ...] | None) -> str:
    return _NOT_TOLD if numbers is None else format_cpu_list(numbers)


def _code(p2p: P2P) -> str:
    """OK if both reading and writing are; else what keeps from the first that is not."""
    for status in (p2p.read, p2p.write):
        if status is not P2PStatus.OK:
            return _NOT_TOLD if status is None else _CODES[status]
    return _CODES[P2PStatus.OK]

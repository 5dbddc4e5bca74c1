from __future__ import annotations

from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.distributed.nvml_links import NVLinkBond
from llamatelemetry.distributed.p2p import P2P, P2PStatus
from llamatelemetry.distributed.topology import Link, LinkKind, Topology, TopologyGPU
from llamatelemetry.distributed.topology_text import render_matrix, render_p2p, render_topology

LEGEND = """\
Legend, nearest first:
  X     the GPU itself
  NV#   that many NVLinks, straight or through NVSwitches
  PIX   PCIe with one switch on the way at most
  PXB   PCIe with several switches, and no host bridge
  PHB   PCIe through a host bridge, so through a CPU
  NODE  PCIe through several host bridges of one NUMA node
  SYS   PCIe and what joins NUMA nodes, so from one socket to another
"""


def gpu(index: int, **told: object) -> TopologyGPU:
    return TopologyGPU(index=index, uuid=f"GPU-{index}", name="GPU", **told)  # type: ignore[arg-type]


def link(a: int, b: int, path: LinkKind, nvlinks: int = 0, **told: object) -> Link:
    bond = NVLinkBond(count=nvlinks) if nvlinks else None
    return Link(a=f"GPU-{a}", b=f"GPU-{b}", path=path, nvlink=bond, **told)  # type: ignore[arg-type]


def near(index: int, first: int) -> TopologyGPU:
    cpus = (*range(first, first + 8), *range(first + 16, first + 24))
    return gpu(index, cpus=cpus, numa_nodes=(first // 8,))


def test_four_gpus_bridged_in_twos_are_drawn_as_in_the_guide() -> None:
    topology = Topology(
        gpus=(near(0, 0), near(1, 0), near(2, 8), near(3, 8)),
        links=(
            link(0, 1, LinkKind.NODE, 4),
            link(0, 2, LinkKind.SYS),
            link(0, 3, LinkKind.SYS),
            link(1, 2, LinkKind.SYS),
            link(1, 3, LinkKind.SYS),
            link(2, 3, LinkKind.NODE, 4),
        ),
    )
    matrix = dedent(
        """\
              GPU0  GPU1  GPU2  GPU3  CPU Affinity  NUMA Affinity  GPU NUMA ID
        GPU0   X    NV4   SYS   SYS   0-7,16-23     0              N/A
        GPU1  NV4    X    SYS   SYS   0-7,16-23     0              N/A
        GPU2  SYS   SYS    X    NV4   8-15,24-31    1              N/A
        GPU3  SYS   SYS   NV4    X    8-15,24-31    1              N/A
        """
    ).rstrip()
    assert render_matrix(topology) == matrix
    assert render_topology(topology) == f"{matrix}\n\n{LEGEND}\nNear each other: GPU0 GPU1; GPU2 GPU3"


def test_what_is_not_told_is_said_once_with_who_lacks_it() -> None:
    refused = {"cpus": "the driver has none", "memory_numa_node": "as on any card"}
    topology = Topology(
        gpus=(gpu(0, absences=refused), gpu(1, absences=refused)),
        links=(link(0, 1, LinkKind.UNKNOWN, absences={"path": "Not Supported"}),),
    )
    matrix = dedent(
        """\
              GPU0  GPU1  CPU Affinity  NUMA Affinity  GPU NUMA ID
        GPU0   X    ?     N/A           N/A            N/A
        GPU1  ?      X    N/A           N/A            N/A
        """
    )
    remarks = dedent(
        """
        Not told, cpus of GPU0 GPU1: the driver has none
        Not told, path of GPU0-GPU1: Not Supported"""
    )
    assert render_topology(topology) == f"{matrix}\n{LEGEND}  ?     the driver does not say\n{remarks}"


def test_one_gpu_is_a_matrix_too_and_none_is_a_sentence() -> None:
    assert render_matrix(Topology(gpus=(gpu(3, cpus=(0,), memory_numa_node=2),))).splitlines() == [
        "      GPU3  CPU Affinity  NUMA Affinity  GPU NUMA ID",
        "GPU3   X    0             N/A            2",
    ]
    assert render_topology(Topology()) == render_p2p(Topology()) == "No GPU is visible."


@pytest.mark.parametrize(
    ("read", "write", "cell"),
    [
        (P2PStatus.OK, P2PStatus.OK, "OK"),
        (P2PStatus.OK, P2PStatus.DISABLED, "DR"),
        (P2PStatus.CHIPSET_NOT_SUPPORTED, P2PStatus.OK, "CNS"),
        (P2PStatus.OK, None, "N/A"),
        (None, None, "N/A"),
    ],
)
def test_peers_are_ok_only_if_they_read_and_write(read: P2PStatus | None, write: P2PStatus | None, cell: str) -> None:
    topology = Topology(gpus=(gpu(0), gpu(1)), links=(link(0, 1, LinkKind.PIX, p2p=P2P(read=read, write=write)),))
    assert render_p2p(topology).splitlines()[1].split() == ["GPU0", "X", cell]


@given(st.integers(0, 9), st.data())
def test_the_matrix_is_symmetric_with_an_x_on_its_diagonal(count: int, data: st.DataObject) -> None:
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    kinds = st.sampled_from([kind for kind in LinkKind if kind is not LinkKind.NVLINK])
    links = [link(a, b, data.draw(kinds), data.draw(st.sampled_from([0, 4, 18]))) for a, b in pairs]
    rows = render_matrix(Topology(gpus=tuple(map(gpu, range(count))), links=tuple(links))).splitlines()[1:]
    cells = [row.split()[1 : count + 1] for row in rows]
    assert cells == [list(column) for column in zip(*cells, strict=True)]
    assert all(cells[place][place] == "X" for place in range(count))
    assert sum(row.count("X") for row in cells) == count

"""Topology through the real binding, against a scripted driver: nothing here is a real machine's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pynvml
import pytest

from llamatelemetry.distributed.nvml_links import NVLinkBond, RemoteKind
from llamatelemetry.distributed.p2p import P2P, P2PStatus
from llamatelemetry.distributed.proximity import best_pairs, islands, nearest_cpus
from llamatelemetry.distributed.topology import LinkKind, NumaNode, Topology, read_topology
from llamatelemetry.distributed.topology_text import render_matrix, render_p2p, render_topology
from llamatelemetry.gpu.device import DriverState
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.testing.nvml_stub import (
    A100_MIG,
    H100_X8,
    LAPTOP,
    TESLA_T4_X2,
    NvmlStub,
    StubDevice,
    StubNvlink,
)

TWO_PAIRS = tuple(
    replace(
        H100_X8[index],
        name="NVIDIA A100 80GB PCIe",
        compute_capability=(8, 0),
        nvlinks=tuple(
            StubNvlink(remote=H100_X8[index ^ 1].pci_bus_id, version=5, speed_mbps=25_000, active=link < 8)
            for link in range(12)
        ),
        pcie_path=(f"host bridge {index}",),
        numa_node=index // 2,
        cpus=(*range(8 * (index // 2), 8 * (index // 2) + 8), *range(16 + 8 * (index // 2), 24 + 8 * (index // 2))),
    )
    for index in range(4)
)
"""Four GPUs on two sockets, bridged in twos, with NVLinks that are not in use."""


@contextmanager
def stubbed(devices: Sequence[StubDevice], folder: Path, **environ: str) -> Iterator[tuple[NvmlStub, Nvml]]:
    with NvmlStub(devices, folder) as stub:
        nvml = Nvml(environ)
        assert nvml.open().state is DriverState.READY
        try:
            yield stub, nvml
        finally:
            nvml.close()


def read(devices: Sequence[StubDevice], folder: Path, **environ: str) -> Topology:
    with stubbed(devices, folder, **environ) as (_stub, nvml):
        return read_topology(nvml)


def test_two_t4_of_a_notebook_meet_at_the_host_bridge_and_do_not_reach_each_other(tmp_path: Path) -> None:
    topology = read(TESLA_T4_X2, tmp_path)
    (between,) = topology.links
    assert (between.kind, between.label, between.nvlink) == (LinkKind.PHB, "PHB", None)
    assert between.p2p.read is not None
    assert not between.p2p.usable
    assert islands(topology) == tuple((gpu.uuid,) for gpu in topology.gpus)
    assert best_pairs(topology) == (between,)
    assert nearest_cpus(topology, topology.gpus[1].uuid) == (0, 1, 2, 3)
    expected = dedent(
        """\
              GPU0  GPU1  CPU Affinity  NUMA Affinity  GPU NUMA ID
        GPU0   X    PHB   0-3           0              N/A
        GPU1  PHB    X    0-3           0              N/A"""
    )
    assert render_matrix(topology) == expected
    assert render_topology(topology).endswith("from one socket to another")  # Nothing is missed.
    assert render_p2p(topology).splitlines()[:3] == ["      GPU0  GPU1", "GPU0   X    CNS", "GPU1  CNS    X"]


def test_eight_h100_behind_switches_are_all_neighbours(tmp_path: Path) -> None:
    topology = read(H100_X8, tmp_path)
    bond = NVLinkBond(count=18, through_switch=True, generation=4, bytes_per_s=18 * 26_562_000_000)
    assert [link.nvlink for link in topology.links] == [bond] * 28
    assert topology.switches == tuple(f"00000000:{bus:02x}:00.0" for bus in range(5, 9))
    assert islands(topology) == (tuple(gpu.uuid for gpu in topology.gpus),)
    assert len(best_pairs(topology)) == 4
    assert {link.path for link in topology.links} == {LinkKind.NODE, LinkKind.SYS}
    assert topology.numa_nodes == (
        NumaNode(number=0, cpus=tuple(range(48)), gpus=tuple(gpu.uuid for gpu in topology.gpus[:4])),
        NumaNode(number=1, cpus=tuple(range(48, 96)), gpus=tuple(gpu.uuid for gpu in topology.gpus[4:])),
    )
    matrix = dedent(
        """\
              GPU0  GPU1  GPU2  GPU3  GPU4  GPU5  GPU6  GPU7  CPU Affinity  NUMA Affinity  GPU NUMA ID
        GPU0   X    NV18  NV18  NV18  NV18  NV18  NV18  NV18  0-47          0              N/A
        GPU1  NV18   X    NV18  NV18  NV18  NV18  NV18  NV18  0-47          0              N/A
        GPU2  NV18  NV18   X    NV18  NV18  NV18  NV18  NV18  0-47          0              N/A
        GPU3  NV18  NV18  NV18   X    NV18  NV18  NV18  NV18  0-47          0              N/A
        GPU4  NV18  NV18  NV18  NV18   X    NV18  NV18  NV18  48-95         1              N/A
        GPU5  NV18  NV18  NV18  NV18  NV18   X    NV18  NV18  48-95         1              N/A
        GPU6  NV18  NV18  NV18  NV18  NV18  NV18   X    NV18  48-95         1              N/A
        GPU7  NV18  NV18  NV18  NV18  NV18  NV18  NV18   X    48-95         1              N/A"""
    )
    assert render_matrix(topology) == matrix
    remarks = "NV18: NVLinks of generation 4, 478 GB/s each way together\nNVSwitches: 4"
    assert render_topology(topology).endswith(f"another\n\n{remarks}")


def test_four_gpus_bridged_in_twos_over_two_sockets_are_two_islands(tmp_path: Path) -> None:
    topology = read(TWO_PAIRS, tmp_path)
    uuids = [gpu.uuid for gpu in topology.gpus]
    assert islands(topology) == ((uuids[0], uuids[1]), (uuids[2], uuids[3]))
    assert [(pair.a, pair.b) for pair in best_pairs(topology)] == [(uuids[0], uuids[1]), (uuids[2], uuids[3])]
    between = topology.link(uuids[3], uuids[2])
    assert between is not None
    assert between.nvlink == NVLinkBond(count=8, generation=3, bytes_per_s=200_000_000_000)
    assert between.p2p.usable
    assert {end.remote for end in topology.gpus[0].nvlinks} == {RemoteKind.GPU}
    matrix = dedent(
        """\
              GPU0  GPU1  GPU2  GPU3  CPU Affinity  NUMA Affinity  GPU NUMA ID
        GPU0   X    NV8   SYS   SYS   0-7,16-23     0              N/A
        GPU1  NV8    X    SYS   SYS   0-7,16-23     0              N/A
        GPU2  SYS   SYS    X    NV8   8-15,24-31    1              N/A
        GPU3  SYS   SYS   NV8    X    8-15,24-31    1              N/A"""
    )
    assert render_matrix(topology) == matrix
    assert "\nNear each other: GPU0 GPU1; GPU2 GPU3\n" in render_topology(topology)


def test_a_laptop_is_a_matrix_of_one(tmp_path: Path) -> None:
    topology = read(LAPTOP, tmp_path)
    assert (len(topology.gpus), topology.links, best_pairs(topology)) == (1, (), ())
    assert render_matrix(topology).splitlines()[1] == "GPU0   X    0-7           0              N/A"


def test_mig_instances_are_where_their_gpu_is(tmp_path: Path) -> None:
    instance = A100_MIG[0].mig[1].uuid  # type: ignore[index]
    topology = read([*A100_MIG, *LAPTOP], tmp_path, CUDA_VISIBLE_DEVICES=instance)
    (gpu,) = topology.gpus
    assert (gpu.uuid, gpu.name, gpu.instances) == (A100_MIG[0].uuid, "NVIDIA A100-SXM4-40GB", (instance,))
    assert topology.link(instance, gpu.uuid) is None
    assert nearest_cpus(topology, instance) == tuple(range(48, 64))
    assert gpu.numa_nodes == (3,)
    assert f"GPU0 is split into MIG instances, which do not reach each other: {instance}" in render_topology(topology)


def test_all_instances_of_a_gpu_share_one_row(tmp_path: Path) -> None:
    topology = read([*A100_MIG, *LAPTOP], tmp_path)
    assert [gpu.label for gpu in topology.gpus] == ["GPU0", "GPU1"]
    assert len(topology.gpus[0].instances) == 3
    assert len(topology.links) == 1


def test_gpus_that_are_hidden_are_no_part_of_the_graph(tmp_path: Path) -> None:
    topology = read(TWO_PAIRS, tmp_path, CUDA_VISIBLE_DEVICES="3,0")
    assert [gpu.index for gpu in topology.gpus] == [0, 3]
    assert [link.label for link in topology.links] == ["SYS"]
    assert len(topology.gpus[0].nvlinks) == 8  # They lead to one that is hidden.


def test_a_container_that_hides_cpus_and_memory_is_said_in_words(tmp_path: Path) -> None:
    hidden = [replace(device, cpus=(), numa_node=None) for device in TESLA_T4_X2]
    topology = read(hidden, tmp_path)
    assert all((gpu.cpus, gpu.numa_nodes) == (None, None) for gpu in topology.gpus)
    assert topology.numa_nodes == ()
    assert nearest_cpus(topology, topology.gpus[0].uuid) is None
    assert render_matrix(topology).splitlines()[1] == "GPU0   X    PHB   N/A           N/A            N/A"
    remarks = render_topology(topology).rpartition("\n\n")[2].splitlines()
    assert remarks == [
        "Not told, cpus of GPU0 GPU1: nvmlDeviceGetCpuAffinityWithinScope: Not Supported",
        "Not told, numa_nodes of GPU0 GPU1: nvmlDeviceGetMemoryAffinity: Not Supported",
    ]


def test_an_old_driver_tells_of_cpus_another_way(tmp_path: Path) -> None:
    with stubbed(TESLA_T4_X2, tmp_path) as (stub, nvml):
        stub.fail("nvmlDeviceGetCpuAffinityWithinScope", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        gpu = read_topology(nvml).gpus[0]
    assert gpu.cpus == (0, 1, 2, 3)
    assert "cpus" not in gpu.absences


def test_a_set_that_is_empty_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stubbed(TESLA_T4_X2, tmp_path) as (_stub, nvml):
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryAffinity", lambda *_: (pynvml.c_ulonglong * 4)())
        gpu = read_topology(nvml).gpus[0]
    assert gpu.numa_nodes is None
    assert gpu.absences["numa_nodes"] == "nvmlDeviceGetMemoryAffinity: the driver gave an empty set"


def test_cpus_of_a_large_machine_are_read_to_the_last(tmp_path: Path) -> None:
    far = tuple(range(960, 1024))
    assert read([replace(LAPTOP[0], cpus=far)], tmp_path).gpus[0].cpus == far


def test_a_gpu_that_is_memory_of_the_machine_has_a_node_of_its_own(tmp_path: Path) -> None:
    topology = read([replace(LAPTOP[0], gpu_numa_node=2)], tmp_path)
    assert topology.gpus[0].memory_numa_node == 2
    assert render_matrix(topology).splitlines()[1].split()[-1] == "2"


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, 999])
@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetHandleByUUID",
        "nvmlDeviceGetTopologyCommonAncestor",
        "nvmlDeviceGetP2PStatus",
        "nvmlDeviceGetCpuAffinityWithinScope",
        "nvmlDeviceGetMemoryAffinity",
        "nvmlDeviceGetNumaNodeId",
        "nvmlDeviceGetNvLinkState",
        "nvmlDeviceGetNvLinkVersion",
        "nvmlDeviceGetNvLinkRemoteDeviceType",
        "nvmlDeviceGetNvLinkRemotePciInfo",
        "nvmlDeviceGetFieldValues",
    ],
)
def test_whatever_the_driver_refuses_the_rest_is_read_and_the_reason_kept(
    function: str, code: int, tmp_path: Path
) -> None:
    with stubbed(TWO_PAIRS, tmp_path) as (stub, nvml):
        stub.fail(function, code)
        topology = read_topology(nvml)
    assert (len(topology.gpus), len(topology.links)) == (4, 6)
    assert len(render_topology(topology).splitlines()) > 6
    told = [*(gpu.absences for gpu in topology.gpus), *(link.absences for link in topology.links)]
    fallback = function == "nvmlDeviceGetCpuAffinityWithinScope"
    assert fallback or any(function in reason or "does not find" in reason for each in told for reason in each.values())


def test_links_are_known_from_addresses_where_kinds_are_refused(tmp_path: Path) -> None:
    with stubbed(TWO_PAIRS, tmp_path) as (stub, nvml):
        stub.fail("nvmlDeviceGetNvLinkRemoteDeviceType", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        assert read_topology(nvml).links[0].label == "NV8"


def test_links_without_a_speed_of_their_own_have_the_common_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_each(handle: Any, fields: list[Any]) -> Any:
        values = ask(handle, fields)
        for value in values:
            if value.fieldId == 164:
                value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
        return values

    with stubbed(TWO_PAIRS, tmp_path) as (_stub, nvml):
        ask = pynvml.nvmlDeviceGetFieldValues
        monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", refuse_each)
        bond = read_topology(nvml).links[0].nvlink
        assert bond is not None
        assert bond.bytes_per_s in {None, 200_000_000_000}


def test_a_gpu_that_is_lost_meanwhile_leaves_gaps_with_the_reason(tmp_path: Path) -> None:
    with stubbed(TESLA_T4_X2, tmp_path) as (stub, nvml):
        stub.devices[1].lose()
        topology = read_topology(nvml)
    assert topology.gpus[0].cpus is not None
    assert topology.gpus[1].cpus is None
    assert topology.links[0].kind is LinkKind.UNKNOWN
    assert topology.links[0].p2p == P2P()
    assert "lost" in topology.gpus[1].absences["handle"].lower()


def test_an_unknown_peer_status_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stubbed(TESLA_T4_X2, tmp_path) as (_stub, nvml):
        monkeypatch.setattr(pynvml, "nvmlDeviceGetP2PStatus", lambda *_: 77)
        assert read_topology(nvml).links[0].p2p.read is P2PStatus.UNKNOWN


def test_a_binding_that_lacks_a_function_is_a_reason_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stubbed(LAPTOP, tmp_path) as (_stub, nvml):
        monkeypatch.delattr(pynvml, "nvmlDeviceGetNumaNodeId")
        gpu = read_topology(nvml).gpus[0]
    assert gpu.absences["memory_numa_node"] == "the installed nvidia-ml-py has no nvmlDeviceGetNumaNodeId"


def test_nothing_is_read_where_nothing_is_open() -> None:
    assert read_topology(Nvml({})) == Topology()

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.distributed.nvml_links import NVLinkBond
from llamatelemetry.distributed.p2p import P2P, P2PStatus
from llamatelemetry.distributed.proximity import best_pairs, distance, islands, nearest_cpus
from llamatelemetry.distributed.topology import Link, LinkKind, Topology, TopologyGPU
from llamatelemetry.errors import UnknownNameError

PATHS = [kind for kind in LinkKind if kind is not LinkKind.NVLINK]
REACHES = P2P(read=P2PStatus.OK, write=P2PStatus.OK)


def gpu(index: int, **told: object) -> TopologyGPU:
    return TopologyGPU(index=index, uuid=f"GPU-{index}", name="GPU", **told)  # type: ignore[arg-type]


def link(a: int, b: int, path: LinkKind = LinkKind.SYS, nvlinks: int = 0, p2p: P2P | None = None) -> Link:
    bond = NVLinkBond(count=nvlinks) if nvlinks else None
    return Link(a=f"GPU-{a}", b=f"GPU-{b}", path=path, nvlink=bond, p2p=p2p or P2P())


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    count = draw(st.integers(0, 7))
    pairs = combinations(range(count), 2)
    links = [link(a, b, draw(st.sampled_from(PATHS)), draw(st.sampled_from([0, 0, 2, 4]))) for a, b in pairs]
    return Topology(gpus=tuple(map(gpu, range(count))), links=tuple(links))


TWO_PAIRS = Topology(
    gpus=(gpu(0, cpus=(0, 1), numa_nodes=(0,)), gpu(1), gpu(2, instances=("MIG-2",), cpus=(2, 3)), gpu(3)),
    links=(link(0, 1, nvlinks=2), link(0, 2), link(0, 3), link(1, 2), link(1, 3), link(2, 3, nvlinks=4)),
)


@given(topologies())
def test_every_gpu_is_on_one_island(topology: Topology) -> None:
    found = [uuid for group in islands(topology) for uuid in group]
    assert sorted(found) == sorted(gpu.uuid for gpu in topology.gpus)


@given(topologies(), st.sampled_from(PATHS[:-1]))
def test_two_islands_are_always_far_apart(topology: Topology, within: LinkKind) -> None:
    order = list(LinkKind)
    for one, other in permutations(islands(topology, within=within), 2):
        for a in one:
            for b in other:
                between = topology.link(a, b)
                assert between is not None
                assert order.index(between.kind) > order.index(within)


@given(topologies())
def test_pairs_take_each_gpu_once_and_the_nearest_first(topology: Topology) -> None:
    pairs = best_pairs(topology)
    taken = [uuid for pair in pairs for uuid in (pair.a, pair.b)]
    assert len(taken) == len(set(taken)) == len(topology.gpus) // 2 * 2
    assert [distance(pair) for pair in pairs] == sorted(map(distance, pairs))
    if pairs:
        assert distance(pairs[0]) == min(map(distance, topology.links))


@given(topologies())
def test_a_link_is_the_same_in_both_directions_and_none_to_itself(topology: Topology) -> None:
    for a, b in permutations((gpu.uuid for gpu in topology.gpus), 2):
        between = topology.link(a, b)
        assert between is not None
        assert between is topology.link(b, a)
    assert all(topology.link(gpu.uuid, gpu.uuid) is None for gpu in topology.gpus)


def test_gpus_bridged_in_twos_are_islands_and_pairs() -> None:
    assert islands(TWO_PAIRS) == (("GPU-0", "GPU-1"), ("GPU-2", "GPU-3"))
    assert [(pair.a, pair.b) for pair in best_pairs(TWO_PAIRS)] == [("GPU-2", "GPU-3"), ("GPU-0", "GPU-1")]


def test_an_island_is_as_wide_as_it_is_asked_for() -> None:
    assert islands(TWO_PAIRS, within=LinkKind.SYS) == (("GPU-0", "GPU-1", "GPU-2", "GPU-3"),)


def test_of_two_equal_ways_the_one_with_peer_access_is_nearer() -> None:
    topology = Topology(
        gpus=tuple(map(gpu, range(3))),
        links=(link(0, 1, LinkKind.PHB), link(0, 2, LinkKind.PHB), link(1, 2, LinkKind.PHB, p2p=REACHES)),
    )
    assert best_pairs(topology) == (topology.links[2],)


def test_a_link_that_is_not_told_joins_nobody_and_comes_last() -> None:
    topology = Topology(gpus=tuple(map(gpu, range(2))), links=(link(0, 1, LinkKind.UNKNOWN),))
    assert islands(topology) == (("GPU-0",), ("GPU-1",))
    assert best_pairs(topology) == topology.links


def test_a_mig_instance_is_where_its_gpu_is() -> None:
    assert TWO_PAIRS.gpu("MIG-2").uuid == "GPU-2"
    assert TWO_PAIRS.link("MIG-2", "GPU-0") is TWO_PAIRS.links[1]
    assert TWO_PAIRS.link("MIG-2", "GPU-2") is None
    assert nearest_cpus(TWO_PAIRS, "MIG-2") == (2, 3)


def test_a_gpu_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(UnknownNameError, match="no GPU is named 'GPU-9'; registered: GPU-0, GPU-1"):
        TWO_PAIRS.gpu("GPU-9")


def test_near_cpus_are_those_that_may_be_used() -> None:
    assert nearest_cpus(TWO_PAIRS, "GPU-0") == (0, 1)
    assert nearest_cpus(TWO_PAIRS, "GPU-0", allowed={1, 2}) == (1,)
    assert nearest_cpus(TWO_PAIRS, "GPU-0", allowed={7}) is None
    assert nearest_cpus(TWO_PAIRS, "GPU-1") is None
    assert nearest_cpus(TWO_PAIRS, "GPU-1", allowed={0}) is None

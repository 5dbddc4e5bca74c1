"""Which GPUs belong together, and which CPUs belong to a GPU: what is asked of a topology before placing a model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from llamatelemetry.distributed.topology import Link, LinkKind, Topology

_RANKS: Final = {kind: rank for rank, kind in enumerate(LinkKind)}


def distance(link: Link) -> tuple[int, int, bool]:
    """What links are ordered by: the lower, the nearer.

    The kind counts first, then how many NVLinks there are, and then whether the two GPUs can reach
    each other's memory at all.
    """
    return _RANKS[link.kind], -(link.nvlink.count if link.nvlink else 0), not link.p2p.usable


def best_pairs(topology: Topology) -> tuple[Link, ...]:
    """Pairs for models that take two GPUs each: every GPU in one at most, the nearest first.

    The nearest two that are left are taken each time, which makes the first pair as good as can be,
    though not always the sum over all pairs.
    """
    pairs: list[Link] = []
    taken: set[str] = set()
    for link in sorted(topology.links, key=distance):
        if link.a not in taken and link.b not in taken:
            pairs.append(link)
            taken |= {link.a, link.b}
    return tuple(pairs)


def islands(topology: Topology, *, within: LinkKind = LinkKind.PXB) -> tuple[tuple[str, ...], ...]:
    """Groups of GPUs that reach each other without going far; a GPU that is near to none is one by itself.

    Args:
        topology: The GPUs.
        within: The farthest kind of link that still holds a group together. The default takes NVLinks
            and PCIe switches, so that no traffic inside a group goes through a CPU. A group can hold
            two GPUs that reach each other only by way of a third.

    Returns:
        UUIDs in the order of the GPUs, the largest group first.
    """
    groups = [{gpu.uuid} for gpu in topology.gpus]
    for link in topology.links:
        if link.kind is not LinkKind.UNKNOWN and _RANKS[link.kind] <= _RANKS[within]:
            joined = [group for group in groups if link.a in group or link.b in group]
            groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    order = {gpu.uuid: position for position, gpu in enumerate(topology.gpus)}
    found = [tuple(sorted(group, key=order.__getitem__)) for group in groups]
    return tuple(sorted(found, key=lambda group: (-len(group), order[group[0]])))


def nearest_cpus(topology: Topology, uuid: str, *, allowed: Collection[int] | None = None) -> tuple[int, ...] | None:
    """The CPUs to run on what feeds a GPU.

    Args:
        topology: The GPUs.
        uuid: A GPU, or a MIG instance of one.
        allowed: CPUs that may be used, such as ``os.sched_getaffinity(0)``; any when None. The driver
            names those of the machine, of which a container may have a few only.

    Returns:
        Their numbers, ascending; None if the driver does not say, or allows none of those near.

    Raises:
        UnknownNameError: There is no such GPU.
    """
    cpus = topology.gpu(uuid).cpus
    if cpus is None or allowed is None:
        return cpus
    return tuple(cpu for cpu in cpus if cpu in allowed) or None

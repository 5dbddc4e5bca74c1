"""Peer to peer: whether two GPUs reach each other's memory without going through the CPU's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from llamatelemetry.distributed.inquiry import Inquiry


class P2PStatus(StrEnum):
    """Whether one GPU can reach into another's memory, and what keeps it from doing so."""

    OK = "ok"
    CHIPSET_NOT_SUPPORTED = "chipset_not_supported"
    GPU_NOT_SUPPORTED = "gpu_not_supported"
    TOPOLOGY_NOT_SUPPORTED = "topology_not_supported"
    DISABLED = "disabled"
    NOT_SUPPORTED = "not_supported"
    UNKNOWN = "unknown"


_STATUSES: Final = dict(enumerate(P2PStatus))  # They stand in the order of NVML's numbers,
_CAPABILITIES: Final = ("read", "write", "nvlink", "atomics", "pci")  # and so do these.


@dataclass(frozen=True, slots=True, kw_only=True)
class P2P:
    """What two GPUs can do with each other's memory without the CPU. None is not told.

    Attributes:
        read: One reads the other's.
        write: One writes into the other's.
        nvlink: They do so over NVLink.
        atomics: Atomic operations work on the other's.
        pci: They do so over PCIe.
    """

    read: P2PStatus | None = None
    write: P2PStatus | None = None
    nvlink: P2PStatus | None = None
    atomics: P2PStatus | None = None
    pci: P2PStatus | None = None

    @property
    def usable(self) -> bool:
        """True if they can both read and write; False also where that is not told."""
        return self.read is P2PStatus.OK and self.write is P2PStatus.OK


def read_p2p(inquiry: Inquiry, a: Any | None, b: Any | None) -> P2P:
    """What two GPUs can do with each other's memory.

    Args:
        inquiry: Where refusals are kept.
        a: Handle of one; None if it could not be had.
        b: Handle of the other.
    """
    told: dict[str, P2PStatus] = {}
    # Numbers, because the binding's own constant for the first of them is a tuple.
    for index, capability in enumerate(_CAPABILITIES):
        status = inquiry.ask(f"p2p.{capability}", "nvmlDeviceGetP2PStatus", a, b, index)
        if status is not None:
            told[capability] = _STATUSES.get(status, P2PStatus.UNKNOWN)
    return P2P(**told)

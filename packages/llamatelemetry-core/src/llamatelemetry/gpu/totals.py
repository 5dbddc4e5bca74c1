"""Where a GPU's energy went, added up since sampling began: data only, for the metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyTotals:
    """How one device's energy is split so far; the three add up to what was measured of it.

    Attributes:
        requests_j: Attributed to requests, in joules: what was above idle while any ran.
        idle_j: What the device takes without work, in joules.
        unattributed_j: Above idle while no request ran, in joules: work of others.
    """

    requests_j: float = 0.0
    idle_j: float = 0.0
    unattributed_j: float = 0.0

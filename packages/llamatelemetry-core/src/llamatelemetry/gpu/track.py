"""One GPU as the sampler follows it, through losses and restarts of its driver."""

from __future__ import annotations

from typing import Final

from llamatelemetry.gpu.device import FastReading, GPUDevice, RareReading, SlowReading
from llamatelemetry.gpu.history import SampleRing
from llamatelemetry.gpu.snapshot import GPUSnapshot, Sample

_ANY_GPU_W: Final = 2_000.0
_PLAUSIBLE: Final = 4.0
_NOTHING_READ: Final = FastReading()


class EnergySum:
    """Joules since the first reading: what the counter went up by, or power over time where there is no counter.

    A counter that goes back was started again with the driver, and one that leaps further than the
    device could have drawn is not the same counter; either way the sum goes on from where it now stands.

    Args:
        longest_gap_ns: Power is added up only between readings that are no further apart.
    """

    __slots__ = ("_energy_mj", "_longest_gap_ns", "_power_w", "_read_ns", "joules")

    def __init__(self, longest_gap_ns: int) -> None:
        self._longest_gap_ns = longest_gap_ns
        self._read_ns = 0
        self._energy_mj: int | None = None
        self._power_w: float | None = None
        self.joules: float | None = None

    def add(self, monotonic_ns: int, fast: FastReading, power_limit_w: float | None) -> None:
        """Adds what was drawn since the last reading."""
        if (energy_mj := fast.energy_mj) is not None:
            drawn = self._counted(monotonic_ns, energy_mj, power_limit_w or _ANY_GPU_W)
            self._energy_mj = energy_mj
        elif self._energy_mj is None and (power_w := fast.power_w) is not None:
            drawn = self._integrated(monotonic_ns, power_w)
            self._power_w = power_w
        else:
            return
        self._read_ns = monotonic_ns
        self.joules = (self.joules or 0.0) + drawn

    def _counted(self, monotonic_ns: int, energy_mj: int, power_limit_w: float) -> float:
        if self._energy_mj is None:
            return 0.0
        drawn = (energy_mj - self._energy_mj) / 1e3
        # A second more than passed, because counters are brought up to date in steps.
        most = _PLAUSIBLE * power_limit_w * ((monotonic_ns - self._read_ns) / 1e9 + 1)
        return drawn if 0 <= drawn <= most else 0.0

    def _integrated(self, monotonic_ns: int, power_w: float) -> float:
        passed_ns = monotonic_ns - self._read_ns
        if self._power_w is None or passed_ns > self._longest_gap_ns:
            return 0.0
        return (self._power_w + power_w) / 2 * passed_ns / 1e9


class Track:
    """What is known of one device. Written by one thread; a snapshot may be taken by any.

    Args:
        device: The device, as the reader last listed it.
        capacity: Samples to keep.
        longest_gap_ns: As for :class:`EnergySum`.

    Attributes:
        listed: Whether the reader still knows of it.
        lost_ns: Since when it does not answer; None while it does.
        slow: The latest slow reading.
        rare: The latest rare reading.
    """

    __slots__ = ("_energy", "_latest", "device", "history", "listed", "lost_ns", "rare", "slow")

    def __init__(self, device: GPUDevice, capacity: int, longest_gap_ns: int) -> None:
        self.device: GPUDevice = device
        self.history: SampleRing = SampleRing(device.uuid, capacity)
        self.listed: bool = True
        self.lost_ns: int | None = None
        self.slow: SlowReading = SlowReading()
        self.rare: RareReading = RareReading()
        self._energy = EnergySum(longest_gap_ns)
        self._latest: tuple[int, FastReading, float | None] | None = None

    def take(self, monotonic_ns: int, fast: FastReading) -> Sample:
        """Keeps a reading.

        Raises:
            struct.error: As :meth:`SampleRing.append`; nothing is kept then.
        """
        sample = Sample(
            uuid=self.device.uuid,
            monotonic_ns=monotonic_ns,
            fast=fast,
            temperature_c=self.slow.temperature_c,
            throttle_reasons=self.slow.throttle_reasons,
        )
        self.history.append(sample)
        self._energy.add(monotonic_ns, fast, self.device.power_limit_w)
        self._latest = monotonic_ns, fast, self._energy.joules
        self.lost_ns = None
        return sample

    def lose(self, monotonic_ns: int) -> Sample:
        """Notes that it does not answer: history gets a gap, and the latest readings stand."""
        if self.lost_ns is None:
            self.lost_ns = monotonic_ns
        return Sample(
            uuid=self.device.uuid,
            monotonic_ns=monotonic_ns,
            fast=_NOTHING_READ,
            lost=True,
            temperature_c=self.slow.temperature_c,
            throttle_reasons=self.slow.throttle_reasons,
        )

    def snapshot(self) -> GPUSnapshot | None:
        """All that is known; None before the first round."""
        lost_ns = self.lost_ns
        if (latest := self._latest) is None:
            if lost_ns is None:
                return None
            latest = lost_ns, _NOTHING_READ, None
        monotonic_ns, fast, energy_j = latest
        return GPUSnapshot(
            device=self.device,
            monotonic_ns=monotonic_ns,
            lost=lost_ns is not None,
            fast=fast,
            slow=self.slow,
            rare=self.rare,
            energy_j=energy_j,
        )

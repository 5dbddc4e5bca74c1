"""From what a GPU's meter reads, again and again, to windows of time with the energy in them."""

from __future__ import annotations

from llamatelemetry.gpu.energy import EnergyWindow


class WindowMaker:
    """Cuts the life of one device into windows, from successive readings.

    Windows follow each other without holes; the energies of the counter's windows add up to the counter's
    difference exactly.

    Attributes:
        counter_period_s: Mean time between two movements of the counter that were seen; no finer than the
            sampling, None before the first.
    """

    counter_period_s: float | None

    def feed(self, monotonic_ns: int, energy_mj: int | None, power_w: float | None) -> EnergyWindow | None:
        """Takes a reading.

        Args:
            monotonic_ns: When it was taken.
            energy_mj: The energy counter, in millijoules; None for no counter.
            power_w: Power; None for not known. Both None: the device did not answer.

        Returns:
            The window that this reading closes; None while it goes on.
        """
        raise NotImplementedError

    @property
    def open_since_ns(self) -> int | None:
        """Where the window that is not closed yet begins; None before the first reading and after a reset."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forgets the last reading, of a device that was lost: what it drew until the next one is in no window."""
        raise NotImplementedError


class IdlePower:
    """Least mean power over any second or more since sampling began.

    Attributes:
        watts: An upper bound of what the device draws when idle; None before the first second.
    """

    watts: float | None

    def feed(self, window: EnergyWindow) -> None:
        """Takes the next window."""
        raise NotImplementedError

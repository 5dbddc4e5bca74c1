"""From what a GPU's meter reads, again and again, to windows of time with the energy in them.

A counter is exact in what it counts and coarse in when: NVIDIA's moves every 20 to 100 ms. So a window
lasts until the counter moved, and its energy is the difference of two readings. Power is the second
choice, where there is no counter or where it stands still.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from llamatelemetry.gpu.energy import EnergyMethod, EnergyWindow

STALLED_S: Final = 2.0
"""A counter that stands still for longer is not believed: a GPU that answers draws power."""
SILENCE_S: Final = 2.0
"""A device that does not answer for longer may come back as another one: nothing is joined across."""
MOVEMENTS: Final = 32
"""Movements of the counter of which the mean is its period."""
SHORTEST_STRETCH_NS: Final = 1_000_000_000
LONGEST_STRETCH_NS: Final = 10_000_000_000
"""Of time over which idle power is looked for."""


class WindowMaker:
    """Cuts the life of one device into windows, from successive readings.

    A window begins where the one before it ends, except after a silence. Energies of the counter's windows
    add up to the counter's difference, to the millijoule, with these exceptions, which are left out
    rather than guessed:

    - a counter that goes back, as after a reload of the driver, begins anew;
    - so does a device that did not answer for more than two seconds, or was reset: what it drew meanwhile
      is in no window;
    - where a counter stands still for more than two seconds and power is known, power is added up instead
      until it moves, and that first movement is left out, since power has covered its time. Where power is
      not known either, the windows say 0 J, as the counter does, and the movement comes whole.

    A pause of the sampler alone loses nothing: the counter went on, and the window is long. Power is not
    added up across a pause of more than two seconds.

    Attributes:
        counter_period_s: Mean time between two movements of the counter that were seen. Not finer than the
            sampling; up to twice too long where sampling is as fast as the counter. None before the first.
    """

    def __init__(self) -> None:
        self.counter_period_s: float | None = None
        self._movements: deque[float] = deque(maxlen=MOVEMENTS)
        self._drawn_w = 0.0
        self.reset()

    def reset(self) -> None:
        """Forgets the last reading, of a device that was lost: what it drew until the next one is in no window."""
        self._start_ns: int | None = None
        self._last_ns: int | None = None
        self._silent = False
        self._counted_mj: int | None = None
        self._stalled = False
        self._power_w: float | None = None
        # Power added up since the window began, and how far it may be off; None with a hole in it.
        self._added_j: float | None = 0.0
        self._rough_j = 0.0

    @property
    def open_since_ns(self) -> int | None:
        """Where the window that is not closed yet begins; None before the first reading and after a reset."""
        return self._start_ns

    def feed(self, monotonic_ns: int, energy_mj: int | None, power_w: float | None) -> EnergyWindow | None:
        """Takes a reading.

        Args:
            monotonic_ns: When it was taken; one that is not after the last is ignored.
            energy_mj: The energy counter, in millijoules; None for no counter.
            power_w: Power; None for not known. Both None: the device did not answer.

        Returns:
            The window that this reading closes; None while it goes on.
        """
        if self._last_ns is not None and monotonic_ns <= self._last_ns:
            return None
        if energy_mj is None and power_w is None:
            self._silent = True
            return None
        passed_s = 0.0 if self._last_ns is None else (monotonic_ns - self._last_ns) * 1e-9
        if self._silent and passed_s > SILENCE_S:
            self.reset()
        self._silent = False
        self._add_power(passed_s, power_w)
        self._last_ns = monotonic_ns
        start_ns, counted_mj = self._start_ns, self._counted_mj
        if start_ns is None or (energy_mj is not None and counted_mj is not None and energy_mj < counted_mj):
            self._begin(monotonic_ns, energy_mj)
            return None
        if counted_mj is None or (self._stalled and energy_mj not in (None, counted_mj)):
            return self._by_power(start_ns, monotonic_ns, energy_mj)
        if energy_mj is None or energy_mj == counted_mj:
            return self._without_movement(start_ns, monotonic_ns, counted_mj, counter_is_there=energy_mj is not None)
        moved_mj = energy_mj - counted_mj
        return self._by_counter(start_ns, monotonic_ns, energy_mj, moved_mj=moved_mj, passed_s=passed_s)

    def _begin(self, now_ns: int, energy_mj: int | None, *, stalled: bool = False) -> None:
        self._start_ns = now_ns
        self._counted_mj = energy_mj
        self._stalled = stalled
        self._added_j = 0.0
        self._rough_j = 0.0

    def _add_power(self, passed_s: float, power_w: float | None) -> None:
        """Adds the trapezoid between the last reading and this one to the window that is open."""
        before_w, self._power_w = self._power_w, power_w
        if self._start_ns is None:
            return
        if before_w is None or power_w is None or passed_s > SILENCE_S:
            self._added_j = None
        elif self._added_j is not None:
            self._added_j += (before_w + power_w) / 2 * passed_s
            # Power may have changed at once, right after the one reading or right before the other.
            self._rough_j += abs(power_w - before_w) / 2 * passed_s

    def _by_counter(
        self, start_ns: int, now_ns: int, energy_mj: int, *, moved_mj: int, passed_s: float
    ) -> EnergyWindow:
        length_s = (now_ns - start_ns) * 1e-9
        if self.counter_period_s is None or passed_s < 2 * self.counter_period_s:
            # After a pause of the sampler nobody knows how often it moved.
            self._movements.append(length_s)
        period_s = self.counter_period_s = math.fsum(self._movements) / len(self._movements)
        energy_j = moved_mj / 1000
        self._drawn_w = energy_j / length_s
        self._begin(now_ns, energy_mj)
        return EnergyWindow(
            start_ns=start_ns,
            end_ns=now_ns,
            energy_j=energy_j,
            method=EnergyMethod.COUNTER,
            # It moved since the reading before: all at once, unless that was long ago.
            step_j=energy_j * min(1.0, period_s / passed_s),
        )

    def _by_power(
        self, start_ns: int, now_ns: int, energy_mj: int | None, *, stalled: bool = False
    ) -> EnergyWindow | None:
        """Closes the window with the power added up; where that has a hole, nothing is said of this time."""
        energy_j, step_j = self._added_j, self._rough_j
        self._begin(now_ns, energy_mj, stalled=stalled)
        if energy_j is None:
            return None
        return EnergyWindow(
            start_ns=start_ns, end_ns=now_ns, energy_j=energy_j, method=EnergyMethod.POWER, step_j=step_j
        )

    def _without_movement(
        self, start_ns: int, now_ns: int, counted_mj: int, *, counter_is_there: bool
    ) -> EnergyWindow | None:
        stood_s = (now_ns - start_ns) * 1e-9
        if not self._stalled and stood_s <= STALLED_S:
            return None
        if self._stalled or self._added_j is not None or not counter_is_there:
            return self._by_power(start_ns, now_ns, counted_mj, stalled=True)
        self._begin(now_ns, counted_mj)
        return EnergyWindow(
            start_ns=start_ns,
            end_ns=now_ns,
            energy_j=0.0,
            method=EnergyMethod.COUNTER,
            step_j=self._drawn_w * stood_s,
        )


class IdlePower:
    """Least mean power over any second or more since sampling began.

    Nothing tells what a GPU that serves would draw without work. It cannot be more than the least it was
    seen to draw, so this is an upper bound, and comes down at the first quiet second. A device that is busy
    from the first sample on hides its idle power: then what a user measured before should be given instead.

    Stretches are compared with what the counter may hold back at their ends added, so that a step that
    comes late does not pass for idleness, and of two quiet stretches the longer one counts.

    Attributes:
        watts: What the device draws when idle, at most; None before the first second.
    """

    def __init__(self) -> None:
        self.watts: float | None = None
        self._least_w = math.inf
        self._windows: deque[EnergyWindow] = deque()

    def feed(self, window: EnergyWindow) -> None:
        """Takes the next window."""
        windows = self._windows
        if windows and windows[-1].end_ns != window.start_ns:
            windows.clear()
        windows.append(window)
        while window.end_ns - windows[0].start_ns > LONGEST_STRETCH_NS and len(windows) > 1:
            windows.popleft()
        energy_j = 0.0
        for each in reversed(windows):
            energy_j += each.energy_j
            length_ns = window.end_ns - each.start_ns
            if length_ns >= SHORTEST_STRETCH_NS:
                length_s = length_ns * 1e-9
                most_w = (energy_j + window.step_j) / length_s
                if most_w < self._least_w:
                    self._least_w, self.watts = most_w, energy_j / length_s

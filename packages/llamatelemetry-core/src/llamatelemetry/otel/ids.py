"""Ids of traces and spans that no seed of the application decides.

OpenTelemetry's generator takes them from the random numbers of the whole process. Who trains seeds those, and a
trainer does it by itself: spans that follow then have ids that other spans had after the same seed, also in the same
trace. It goes the other way too: each span takes a number away from the application, whose results then depend on
what is traced.
"""

from __future__ import annotations

import os
import random
from typing import Final

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

_SPAN_BITS: Final = 64
_TRACE_BITS: Final = 128
_numbers: Final = random.Random()  # noqa: S311  Ids are no secrets.
# Of a forked child they would be those of its parent.
os.register_at_fork(after_in_child=_numbers.seed)


class OwnIdGenerator(RandomIdGenerator):
    """Random ids from numbers of its own. Threads may share one."""

    def generate_span_id(self) -> int:
        """A number that is not 0, of 64 bits."""
        return _numbers.getrandbits(_SPAN_BITS) or self.generate_span_id()

    def generate_trace_id(self) -> int:
        """A number that is not 0, of 128 bits."""
        return _numbers.getrandbits(_TRACE_BITS) or self.generate_trace_id()

"""What holds for every test of every distribution."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# Machines are shared and noisy: how long an example takes says nothing about the code.
_shared = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# One commit has one verdict. Examples nobody tried yet: pytest --hypothesis-profile=explore.
settings.register_profile("gate", _shared, derandomize=True)
settings.register_profile("explore", _shared, print_blob=True)
settings.load_profile("gate")

# A script's shell has its background jobs ignore Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from __future__ import annotations

import math

import pytest

from llamatelemetry.errors import ConfigurationError
from llamatelemetry.inference.policy import SchedulerConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_waiting", 0),
        ("max_waiting_tokens", 0),
        ("context_length", 0),
        ("ageing_s", -1.0),
        ("ageing_s", math.nan),
        ("aged_every", 1),
        ("quantum", 0),
        ("prefix_window", -1),
        ("min_prefix_gain", 0),
        ("max_bypass", -1),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(field, value) -> None:
    with pytest.raises(ConfigurationError, match=field):
        SchedulerConfig(**{field: value})


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_a_tenant_without_a_share_is_refused(weight) -> None:
    with pytest.raises(ConfigurationError, match="poor"):
        SchedulerConfig(weights={"poor": weight})

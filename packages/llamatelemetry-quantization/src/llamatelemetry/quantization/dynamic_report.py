"""What was chosen for a model and what it costs, as JSON."""

from __future__ import annotations

from llamatelemetry.quantization.dynamic.choosing import DynamicModel

__all__ = ["dynamic_facts"]


def dynamic_facts(made: DynamicModel) -> dict[str, object]:
    """What was chosen and what it costs, as JSON; divergences are in nats a token."""
    return {
        "size_bytes": made.model.size_bytes,
        "bits_per_weight": round(made.model.bits_per_weight, 4),
        "divergence": {"predicted": made.predicted, "measured": made.measured},
        "trials": made.trials,
        "groups": [
            {
                "name": group.name,
                "type": group.type,
                "given": sorted(set(group.given)),
                "size_bytes": group.size_bytes,
                "divergence": group.divergence,
            }
            for group in made.groups
        ],
    }

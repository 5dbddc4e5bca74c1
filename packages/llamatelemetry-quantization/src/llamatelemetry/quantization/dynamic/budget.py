"""How large a model may be, or how far from its parent: what types are chosen under."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.file_types import file_type

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One of these, and no other.

    Attributes:
        size_bytes: Most bytes of the file.
        bits_per_weight: Most bits of the file for each number of the model.
        like: The file type whose size is the most, for example ``Q4_K_M``.
        max_divergence: Most mean divergence from the parent on the text that is measured on, in nats a token.

    Raises:
        InvalidValueError: None or several are given, or what is given is no budget.
    """

    size_bytes: int | None = None
    bits_per_weight: float | None = None
    like: str | None = None
    max_divergence: float | None = None

    def __post_init__(self) -> None:
        given = self.parameters()
        if len(given) != 1:
            fix = "give one of size_bytes, bits_per_weight, like and max_divergence"
            raise InvalidValueError("budget", sorted(given), fix)
        ((name, value),) = given.items()
        if isinstance(value, str):
            file_type(value)
        elif not 0 < value < math.inf:
            raise InvalidValueError(name, value, "give a number above 0")

    def parameters(self) -> dict[str, float | str]:
        """What is given, by name."""
        fields = {
            "size_bytes": self.size_bytes,
            "bits_per_weight": self.bits_per_weight,
            "like": self.like,
            "max_divergence": self.max_divergence,
        }
        return {name: value for name, value in fields.items() if value is not None}

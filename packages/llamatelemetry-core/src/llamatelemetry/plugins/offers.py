"""Which distribution brings a name that nothing installed registers.

Core knows these names only to tell a user what to install; it imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A distribution and how to get it.

    Attributes:
        distribution: Its name.
        command: One command that installs it.
    """

    distribution: str
    command: str


_LLAMACPP: Final = Offer(
    distribution="llamatelemetry-llamacpp", command="pip install 'llamatelemetry-llamacpp[embedded]'"
)

OFFERS: Final[Mapping[tuple[str, str], Offer]] = {
    ("backend", "llamacpp"): _LLAMACPP,
    ("command", "run"): _LLAMACPP,
    ("command", "demo"): _LLAMACPP,
}
"""Kind and name to the distribution that registers it."""

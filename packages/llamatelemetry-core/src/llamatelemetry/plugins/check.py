"""One line of what ``llamatelemetry doctor`` says, so that plugins can contribute theirs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckState(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was looked at, in a word or two.
        state: How it came out; ``error`` makes ``doctor`` exit with 1.
        detail: What was found.
        fix: What to do about it, best as one command; empty when nothing is to be done.
    """

    name: str
    state: CheckState
    detail: str
    fix: str = ""

"""What was measured, as JSON for programs and as a table for people; and the limits that a stage may hold it to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llamatelemetry.errors import InvalidValueError, QualityLimitError
from llamatelemetry.quantization.evaluation.intervals import CONFIDENCE, Estimate
from llamatelemetry.quantization.evaluation.quality import Quality

__all__ = ["QualityLimits", "quality_facts", "quality_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLimits:
    """What a model may lose at most; None where it does not matter.

    Attributes:
        perplexity: Of the model itself.
        perplexity_ratio: The model's over its parent's.
        divergence: Mean divergence from the parent, in nats a token.

    Raises:
        InvalidValueError: One of them is no positive number.
    """

    perplexity: float | None = None
    perplexity_ratio: float | None = None
    divergence: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.given():
            if not 0 < limit < math.inf:
                raise InvalidValueError(f"max_{name}", limit, "give a number above 0")

    def given(self) -> Iterator[tuple[str, float]]:
        """Names of the figures that have a limit, and the limits."""
        limits = (("perplexity", self.perplexity), ("perplexity_ratio", self.perplexity_ratio))
        yield from ((name, limit) for name, limit in (*limits, ("divergence", self.divergence)) if limit is not None)

    @property
    def needs_parent(self) -> bool:
        """Whether one of them says nothing without a parent."""
        return self.perplexity_ratio is not None or self.divergence is not None

    def check_parent(self, *, there: bool) -> None:
        """Sees that there is a parent where one of them needs it.

        Raises:
            InvalidValueError: There is none.
        """
        if self.needs_parent and not there:
            raise InvalidValueError("parent", None, "a limit needs it: give the model that this one was made of")

    def check(self, quality: Quality) -> None:
        """Holds what was measured to them.

        Raises:
            QualityLimitError: A figure is past its limit.
            InvalidValueError: A limit compares with a parent, and there was none.
        """
        compared = quality.comparison
        figures = {"perplexity": quality.perplexity}
        if compared is not None:
            figures |= {"perplexity_ratio": compared.perplexity_ratio, "divergence": compared.divergence}
        self.check_parent(there=compared is not None)
        for name, limit in self.given():
            # Not (value <= limit), so that what is no number is past it.
            if not figures[name].value <= limit:
                raise QualityLimitError(name, figures[name].value, limit)


def quality_facts(quality: Quality) -> dict[str, Any]:
    """All of it, as JSON. Perplexities have no unit; divergences are in nats a token."""
    facts: dict[str, Any] = {
        "text": {"name": quality.text.name, "sha256": quality.text.sha256},
        "context": quality.context,
        "windows": quality.windows,
        "tokens": quality.tokens,
        "confidence": CONFIDENCE,
        "perplexity": _estimate(quality.perplexity),
    }
    if quality.comparison is not None:
        compared = quality.comparison
        facts |= {
            "parent_perplexity": _estimate(compared.parent_perplexity),
            "perplexity_ratio": _estimate(compared.perplexity_ratio),
            "divergence": _estimate(compared.divergence)
            | {
                "median": compared.divergence_median,
                "p99": compared.divergence_p99,
                "max": compared.divergence_max,
            },
            "agreement": _estimate(compared.agreement),
        }
    return facts


def quality_rows(quality: Quality) -> Iterator[tuple[str, str, str]]:
    """Name, value and interval of each figure, for people."""
    yield "perplexity", f"{quality.perplexity.value:.3f}", _interval(quality.perplexity, "{:.3f}")
    if quality.comparison is None:
        return
    compared = quality.comparison
    parent, ratio, apart, same = (
        compared.parent_perplexity,
        compared.perplexity_ratio,
        compared.divergence,
        compared.agreement,
    )
    yield "perplexity of the parent", f"{parent.value:.3f}", _interval(parent, "{:.3f}")
    yield "ratio of the two", f"{ratio.value:.4f}", _interval(ratio, "{:.4f}")
    yield "divergence, mean, nats", f"{apart.value:.5f}", _interval(apart, "{:.5f}")
    yield "  half of the tokens below", f"{compared.divergence_median:.5f}", ""
    yield "  1 in 100 above", f"{compared.divergence_p99:.5f}", ""
    yield "  most", f"{compared.divergence_max:.5f}", ""
    yield "same first choice", f"{same.value:.1%}", _interval(same, "{:.1%}")


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _interval(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return "one window has none"
    return f"{form.format(estimate.low)} to {form.format(estimate.high)}"

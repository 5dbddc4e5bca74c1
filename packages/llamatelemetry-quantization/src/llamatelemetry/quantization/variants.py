"""Variants of one model side by side: how large each is, what it lost, how fast it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import InvalidValueError

__all__ = ["Figure", "Variant", "VariantTable", "read_report", "read_variant_table", "variant_of"]

_MOST_BYTES: Final = 2**20
_MOST_SIZE: Final = 2**63
_MOST: Final = 1e300
"""Whole numbers in JSON have no end, and what is past this is no float."""
_MISSING: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and where it may lie, as the report that it is from has it.

    Attributes:
        value: The figure.
        low: Lower end of its interval; None where it has none.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def shown(self, form: str) -> str:
        """The figure and half of its interval's width, for people."""
        told = format(self.value, form)
        return told if self.low is None or self.high is None else f"{told} ± {format((self.high - self.low) / 2, form)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model of several that were made of the same. What was not measured is None.

    Attributes:
        name: What it is called, for example ``q4_k_m``.
        size_bytes: Bytes of its file.
        perplexity: On the text that all were measured on.
        perplexity_ratio: Over that of the parent.
        divergence: Mean divergence from the parent, in nats a token.
        agreement: Share of tokens whose likeliest successor is the parent's.
        ttft_ms: Median time to the first token, in milliseconds.
        decode_tps: Tokens a second of one request.
        prefill_tps: Prompt tokens a second.
    """

    name: str
    size_bytes: int
    perplexity: Figure | None = None
    perplexity_ratio: Figure | None = None
    divergence: Figure | None = None
    agreement: Figure | None = None
    ttft_ms: Figure | None = None
    decode_tps: Figure | None = None
    prefill_tps: Figure | None = None


_COLUMNS: Final[Sequence[tuple[str, str, str]]] = (
    ("perplexity", "perplexity", ".3f"),
    ("ratio", "perplexity_ratio", ".4f"),
    ("divergence", "divergence", ".5f"),
    ("same choice", "agreement", ".1%"),
    ("first token, ms", "ttft_ms", ".1f"),
    ("tokens/s", "decode_tps", ".1f"),
    ("prompt tokens/s", "prefill_tps", ".1f"),
)
"""Titles of a table, the figures that they are of, and how those are written."""
_OF_QUALITY: Final = ("perplexity", "perplexity_ratio", "divergence", "agreement")
_OF_SPEED: Final = ("ttft_ms", "decode_tps", "prefill_tps")


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantTable:
    """All variants, the parent first.

    Attributes:
        variants: The parent, and what was made of it.
    """

    variants: tuple[Variant, ...]

    def to_data(self) -> dict[str, Any]:
        """The table as JSON has it."""
        return asdict(self)

    def markdown(self) -> str:
        """A table in Markdown, without columns that nothing was measured for; ``±`` is half an interval's width."""
        parent = self.variants[0]
        columns = [each for each in _COLUMNS if any(getattr(variant, each[1]) for variant in self.variants)]
        rows = [["model", "MB", "of the parent", *(title for title, _, _ in columns)]]
        rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
        for variant in self.variants:
            figures = ((getattr(variant, name), form) for _, name, form in columns)
            rows.append(
                [
                    variant.name,
                    f"{variant.size_bytes / 1e6:.1f}",
                    f"{variant.size_bytes / parent.size_bytes:.0%}" if parent.size_bytes else _MISSING,
                    *(_MISSING if figure is None else figure.shown(form) for figure, form in figures),
                ]
            )
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def variant_of(
    name: str, size_bytes: int, *, quality: Mapping[str, Any] | None, speed: Mapping[str, Any] | None
) -> Variant:
    """A variant of what the reports of the stages ``validate`` and ``benchmark`` say.

    Raises:
        InvalidValueError: A report says something that no such report says.
    """
    figures = {each: _figure(f"quality of {name}", each, (quality or {}).get(each)) for each in _OF_QUALITY}
    figures |= {each: _figure(f"benchmark of {name}", each, (speed or {}).get(each)) for each in _OF_SPEED}
    return Variant(name=name, size_bytes=size_bytes, **figures)


def read_report(path: Path) -> Mapping[str, Any]:
    """A report as JSON.

    Raises:
        InvalidValueError: It is none.
    """
    fix = "give a report, as the stages validate and benchmark write it"
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidValueError("report", str(path), f"{fix}: {error}") from None
    if not isinstance(data, dict):
        raise InvalidValueError("report", str(path), fix)
    return data


def read_variant_table(path: Path) -> VariantTable:
    """What the stage ``compare`` wrote.

    Raises:
        InvalidValueError: The file is no such report.
    """
    fix = "give a report, as the stage compare writes it"
    variants = read_report(path).get("variants")
    if not isinstance(variants, list) or not variants:
        raise InvalidValueError("variants", str(path), fix)
    found = []
    for each in variants:
        match each:
            case {"name": str() as name, "size_bytes": int() as size} if 0 <= size <= _MOST_SIZE:
                found.append(variant_of(name, size, quality=each, speed=each))
            case _:
                raise InvalidValueError("variants", str(path), fix)
    return VariantTable(variants=tuple(found))


def _figure(where: str, name: str, told: object) -> Figure | None:
    match told:
        case None:
            return None
        case {"value": int() | float() as value, "low": int() | float() | None as low, "high": high} if (
            high is None or isinstance(high, int | float)
        ) and not any(isinstance(each, int) and abs(each) > _MOST for each in (value, low, high)):
            return Figure(value=value, low=low, high=high)
        case _:
            raise InvalidValueError(f"{where}: {name}", told, "give a value with low and high")

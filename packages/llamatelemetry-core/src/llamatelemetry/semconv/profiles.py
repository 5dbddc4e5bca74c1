"""From one record's facts to the attributes of any set of profiles.

A set of profiles is compiled once, into one getter for all fields and the names that go with them,
so that a call is two short loops: this runs for every request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, Literal

from llamatelemetry.semconv import gen_ai, legacy, openinference, own, spans
from llamatelemetry.semconv.attributes import Attribute, AttributeValue, Task, task_of
from llamatelemetry.semconv.facts import AttemptFacts, InferenceFacts, PhaseFacts, ServerStartFacts

Profile = Literal["gen_ai", "gen_ai_next", "llm", "openinference"]
"""A set of names that a record can be emitted in."""

PROFILES: Final[Mapping[Profile, tuple[Attribute, ...]]] = MappingProxyType(
    {
        "gen_ai": gen_ai.GEN_AI,
        "gen_ai_next": gen_ai.GEN_AI_NEXT,
        "llm": legacy.LLM,
        "openinference": openinference.OPENINFERENCE,
    }
)
"""Each profile's rows on the inference span."""

ALWAYS: Final = (*gen_ai.GENERAL, *own.INFERENCE)
"""Rows on the inference span with any profile."""

PHASE_PROFILES: Final[Mapping[Profile, tuple[Attribute, ...]]] = MappingProxyType({"llm": legacy.LLM_PHASE})
"""Rows on phase spans of the profiles that have any."""


def inference_rows(profiles: Iterable[Profile], task: Task | None = None) -> tuple[Attribute, ...]:
    """Rows of an inference span, each name once.

    Args:
        profiles: Profiles it is emitted in.
        task: What it is for; None gives the rows of either.
    """
    rows = [*(row for profile in profiles for row in PROFILES[profile]), *ALWAYS]
    return _unique(row for row in rows if task is None or row.task in {None, task})


def phase_rows(profiles: Iterable[Profile]) -> tuple[Attribute, ...]:
    """Rows of a phase span, each name once."""
    return _unique([*(row for profile in profiles for row in PHASE_PROFILES.get(profile, ())), *own.PHASE])


def attributes_for(facts: InferenceFacts, profiles: tuple[Profile, ...]) -> dict[str, AttributeValue]:
    """Every attribute of an inference span, those given at its start included.

    Args:
        facts: What is known of the inference.
        profiles: Profiles to emit it in.
    """
    return _inference_mapping(profiles, task_of(facts.operation))(facts)


def start_attributes(facts: InferenceFacts, profiles: tuple[Profile, ...]) -> dict[str, AttributeValue]:
    """Attributes to give an inference span when it starts, so that samplers see them."""
    return _start_mapping(profiles, task_of(facts.operation))(facts)


def phase_attributes(facts: PhaseFacts, profiles: tuple[Profile, ...]) -> dict[str, AttributeValue]:
    """Attributes of a phase span."""
    return _phase_mapping(profiles)(facts)


def attempt_attributes(facts: AttemptFacts) -> dict[str, AttributeValue]:
    """Attributes of the event of a failed try."""
    return _attempt_mapping()(facts)


def server_start_attributes(facts: ServerStartFacts) -> dict[str, AttributeValue]:
    """Attributes of a server's start."""
    return _server_start_mapping()(facts)


def mapping_of(rows: Iterable[Attribute]) -> Callable[[Any], dict[str, AttributeValue]]:
    """Compiles rows into a function from facts to attributes. Facts that are None are left out."""
    rows = tuple(rows)
    plain = _pairs(row for row in rows if row.type != "double" and not row.only_true)
    # Callers write temperature=0, and an int under a name that is a double elsewhere makes
    # backends that index by type reject one of the two.
    doubles = _pairs(row for row in rows if row.type == "double")
    flags = tuple((row.name, row.field) for row in rows if row.only_true)

    def attributes(facts: Any) -> dict[str, AttributeValue]:
        found: dict[str, AttributeValue] = {name: value for name, value in plain(facts) if value is not None}
        for name, value in doubles(facts):
            if value is not None:
                found[name] = float(value)
        for name, field in flags:
            if getattr(facts, field):
                found[name] = True
        return found

    return attributes


def _pairs(rows: Iterable[Attribute]) -> Callable[[Any], Iterable[tuple[str, Any]]]:
    names, fields = [], []
    for row in rows:
        names.append(row.name)
        fields.append(row.field)
    if not fields:
        return lambda _facts: ()
    get = attrgetter(*fields)
    if len(fields) == 1:
        return lambda facts: ((names[0], get(facts)),)
    return lambda facts: zip(names, get(facts), strict=True)


def _unique(rows: Iterable[Attribute]) -> tuple[Attribute, ...]:
    return tuple({row.name: row for row in rows}.values())


@cache
def _inference_mapping(
    profiles: tuple[Profile, ...], task: Task
) -> Callable[[InferenceFacts], dict[str, AttributeValue]]:
    return mapping_of(inference_rows(profiles, task))


@cache
def _start_mapping(profiles: tuple[Profile, ...], task: Task) -> Callable[[InferenceFacts], dict[str, AttributeValue]]:
    return mapping_of(row for row in inference_rows(profiles, task) if row.at_start)


@cache
def _phase_mapping(profiles: tuple[Profile, ...]) -> Callable[[PhaseFacts], dict[str, AttributeValue]]:
    return mapping_of(phase_rows(profiles))


@cache
def _attempt_mapping() -> Callable[[AttemptFacts], dict[str, AttributeValue]]:
    return mapping_of(spans.ATTEMPT_FAILED)


@cache
def _server_start_mapping() -> Callable[[ServerStartFacts], dict[str, AttributeValue]]:
    return mapping_of(spans.SERVER_START)

"""From one request's facts to what is recorded on its instruments.

As with attributes, a set of profiles is compiled once: this runs for every request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

from llamatelemetry.semconv.attributes import Attribute, AttributeValue, Task, task_of
from llamatelemetry.semconv.facts import InferenceFacts
from llamatelemetry.semconv.metrics import ALWAYS, GEN_AI, GEN_AI_NEXT, REQUEST_ATTRIBUTES, Instrument, MeasuredFact
from llamatelemetry.semconv.profiles import Profile, mapping_of


class Measurement(NamedTuple):
    """One value to record."""

    name: str
    value: float
    attributes: dict[str, AttributeValue]


def measured_facts(profiles: Iterable[Profile], task: Task | None = None) -> tuple[MeasuredFact, ...]:
    """What is recorded once per request.

    Only ``gen_ai`` and ``gen_ai_next`` have names of their own; without either, metrics take
    ``gen_ai``'s, so that choosing older span attributes loses no figure.

    Args:
        profiles: Profiles to emit it in.
        task: What is asked for; None gives the rows of either.
    """
    chosen = set(profiles)
    rows: list[MeasuredFact] = []
    if "gen_ai" in chosen or "gen_ai_next" not in chosen:
        rows += GEN_AI
    if "gen_ai_next" in chosen:
        rows += GEN_AI_NEXT
    return tuple(row for row in (*rows, *ALWAYS) if task is None or row.task in {None, task})


def request_instruments(profiles: Iterable[Profile]) -> tuple[Instrument, ...]:
    """The instruments that :func:`measurements` names, each once."""
    return tuple(dict.fromkeys(row.instrument for row in measured_facts(profiles)))


def measurements(facts: InferenceFacts, profiles: tuple[Profile, ...]) -> list[Measurement]:
    """What to record for one request. Attributes are shared between measurements: do not change them.

    Args:
        facts: What is known of the request.
        profiles: Profiles to emit it in.
    """
    shared = request_metric_attributes(facts)
    plan = _plan(profiles, task_of(facts.operation))
    kinds = [{**shared, **extra(facts)} for extra in plan.extras]
    found = []
    for value, (name, kind, fixed) in zip(plan.values(facts), plan.rows, strict=True):
        if value is not None:
            found.append(Measurement(name, value, {**kinds[kind], **fixed} if fixed else kinds[kind]))
    return found


request_metric_attributes: Final = mapping_of(REQUEST_ATTRIBUTES)
"""From :class:`InferenceFacts` to what every figure of a request carries: few names, few values."""


class _Plan(NamedTuple):
    """What to record for requests of one kind.

    Attributes:
        values: From facts to one value for each row.
        rows: Instrument, index of its attributes among ``extras``, and what is fixed.
        extras: From facts to attributes beyond those that every figure carries.
    """

    values: Callable[[InferenceFacts], tuple[float | None, ...]]
    rows: tuple[tuple[str, int, dict[str, AttributeValue]], ...]
    extras: tuple[Callable[[Any], dict[str, AttributeValue]], ...]


@cache
def _plan(profiles: tuple[Profile, ...], task: Task) -> _Plan:
    measured = measured_facts(profiles, task)
    # Counted requests come last, so that one getter has the values of all others.
    ordered = sorted(measured, key=lambda row: not row.field)
    counted = (1,) * sum(not row.field for row in ordered)
    get = attrgetter(*(row.field for row in ordered if row.field))
    extras = [_extra_rows(row) for row in ordered]
    kinds = tuple(dict.fromkeys(extras))
    return _Plan(
        values=lambda facts: (*get(facts), *counted),
        rows=tuple(
            (row.instrument.name, kinds.index(extra), {attribute.name: value for attribute, value in row.fixed})
            for row, extra in zip(ordered, extras, strict=True)
        ),
        extras=tuple(mapping_of(kind) for kind in kinds),
    )


def _extra_rows(row: MeasuredFact) -> tuple[Attribute, ...]:
    fixed = [attribute for attribute, _ in row.fixed]
    return tuple(each for each in row.instrument.attributes if each not in (*REQUEST_ATTRIBUTES, *fixed))

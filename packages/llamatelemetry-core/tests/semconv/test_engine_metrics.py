from __future__ import annotations

import dataclasses

import pytest

from llamatelemetry.inference.live import EngineStats
from llamatelemetry.semconv.engine_metrics import ENGINE, OBSERVED
from llamatelemetry.semconv.metrics import MODEL_ATTRIBUTES

FIELDS = {field.name: field.type for field in dataclasses.fields(EngineStats)}


@pytest.mark.parametrize("row", OBSERVED, ids=lambda row: row.field)
def test_what_is_observed_is_a_field_of_the_engines_stats(row):
    assert FIELDS[row.field].startswith("Mapping" if row.keyed_by else "int")
    assert {attribute.field for attribute in row.read} <= FIELDS.keys()


@pytest.mark.parametrize("row", OBSERVED, ids=lambda row: row.field)
def test_a_row_says_where_each_attribute_of_its_instrument_comes_from(row):
    given = {*MODEL_ATTRIBUTES, *row.read, *(attribute for attribute, _ in row.fixed)} | ({row.keyed_by} - {None})
    assert given == set(row.instrument.attributes)


def test_rows_of_one_instrument_are_told_apart():
    told = [(row.instrument.name, row.fixed) for row in OBSERVED]
    assert len(set(told)) == len(told)


def test_an_engines_instruments_are_observed_and_what_is_lost_is_counted():
    assert {row.kind for row in ENGINE} == {"observable_counter", "observable_up_down_counter", "counter"}
    assert [row.name for row in ENGINE if row.kind == "counter"] == ["llamatelemetry.records.dropped"]
